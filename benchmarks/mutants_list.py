"""The mutants of `mutants.py`: faults that somebody could make, and the tests that should notice.

`tests` are files and test ids, as few as are likely to notice. `equivalent` says why a fault that no test can notice
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: a file whose text `old`, which stands there once, is replaced by `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    equivalent: str = ""


NUMERICS, TRACKING = "platform/lorafleet/numerics", "platform/lorafleet/tracking"
PLATFORM, TRAIN = "platform/lorafleet", "jobs/lorafleet_jobs/train"
JOBS, SERVE = "jobs/lorafleet_jobs", "serve/lorafleet_serve"

FIRST = (
    Mutant(
        "one d for all Prodigy jobs of a pack",
        f"{TRAIN}/training.py",
        "        self.optimizer.step()\n",
        "        self.optimizer.step()\n"
        "        for group in self.optimizer.param_groups:\n"
        '            if "d" in group:\n'
        '                group["d"] = self.base.__dict__["d"] = max(group["d"], self.base.__dict__.get("d", 0))\n',
        "tests/jobs/train/test_pack_separate.py",
    ),
    Mutant(
        "gradient checkpointing silently off",
        f"{PLATFORM}/loaded.py",
        "        if wanted:\n            self.unet.enable_gradient_checkpointing()",
        "        if False:\n            self.unet.enable_gradient_checkpointing()",
        "tests/jobs/train/packs/test_pack_separate.py",
    ),
    Mutant(
        "loss in bf16",
        f"{PLATFORM}/loaded.py",
        "return prediction.to(torch.promote_types(prediction.dtype, torch.float32))",
        "return found",
        "tests/jobs/train/test_precision.py",
    ),
    Mutant(
        "workers' gradients averaged",
        f"{TRAIN}/data_parallel.py",
        "parameter.grad = piece.view_as(parameter)",
        "parameter.grad = piece.view_as(parameter) / self.size",
        "tests/jobs/train/test_data_parallel.py",
    ),
    Mutant(
        "latents cached whatever the VAE",
        f"{TRAIN}/data/latents.py",
        '{view}/{self.loaded.base.vae_fingerprint}"',
        '{view}"',
        "tests/jobs/train/data/test_shared_cache.py",
    ),
)
"""Those that an audit found the tests to let through."""

NUMERIC = (
    Mutant(
        "min-SNR's gamma always 5",
        f"{NUMERICS}/build_objective.py",
        "MinSNR(recipe.min_snr_gamma or GAMMA)",
        "MinSNR(GAMMA)",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "levels outside a base's own",
        f"{NUMERICS}/objectives.py",
        "self.distribution.draw(count, generator).clamp(float(sigmas[0]), float(sigmas[sigmas.isfinite()][-1]))",
        "self.distribution.draw(count, generator)",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "timesteps between levels rounded down",
        f"{NUMERICS}/objectives.py",
        "return low + ((wanted - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)",
        "return low + 0 * wanted",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "TCD's middle timestep rounded",
        f"{NUMERICS}/samplers.py",
        "torch.floor((1 - TCD_GAMMA) * after)",
        "torch.round((1 - TCD_GAMMA) * after)",
        "tests/platform/numerics/test_samplers.py",
        "TCD takes timesteps 20 k - 1 alone, and 0.7 (20 k - 1) = 14 k - 0.7 rounds to what it is floored to",
    ),
    Mutant(
        "pooled output of the last chunk",
        f"{NUMERICS}/long_prompts.py",
        "encoded[0].pooled)",
        "encoded[-1].pooled)",
        "tests/platform/numerics/test_long_prompts.py",
    ),
    Mutant(
        "prompt weights one token early",
        f"{NUMERICS}/long_prompts.py",
        "weights[1 : len(chunk) + 1]",
        "weights[: len(chunk)]",
        "tests/platform/numerics/test_long_prompts.py",
    ),
    Mutant(
        "DoRA's gain forgets adapters before it",
        f"{NUMERICS}/factors.py",
        "            Bs = [before * gain[:, None].to(before) for before in Bs]\n",
        "",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "DoRA at scale 0 kept",
        f"{NUMERICS}/factors.py",
        "[(layers, scale) for layers, scale in group if scale]",
        "[(layers, scale) for layers, scale in group]",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "one dropout mask for all layers",
        f"{NUMERICS}/rowlora.py",
        "(seed * 1009 + layer)",
        "(seed * 1009)",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "shorter triggers win",
        f"{NUMERICS}/text.py",
        "sorted(triggers, key=len, reverse=True)",
        "sorted(triggers, key=len)",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "learned tokens stay in the table",
        f"{NUMERICS}/text.py",
        "            finally:\n                self.embeddings[i].held = ()\n",
        "            finally:\n                pass\n",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "new tokens of standard deviation 1",
        f"{NUMERICS}/text.py",
        " * table.std().item()",
        "",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "exclamation marks lost",
        f"{NUMERICS}/text.py",
        "        ids += [tokenizer.pad_token_id] if i else []\n",
        "",
        "tests/platform/numerics/test_text.py",
    ),
)

TRAINING = (
    Mutant(
        "cosine restarts ignored",
        f"{TRAIN}/optimizers.py",
        "num_cycles=recipe.lr_cycles",
        "num_cycles=1",
        "tests/jobs/train/test_optimizers.py",
    ),
    Mutant(
        "tokens at the UNet's rate",
        f"{TRAIN}/optimizers.py",
        '{"params": each.parameters, "lr": rate_of(recipe, each.kind)}',
        '{"params": each.parameters, "lr": rate}',
        "tests/jobs/train/test_optimizers.py",
    ),
    Mutant(
        "a small fraction of few steps is none",
        f"{TRAIN}/optimizers.py",
        "max(1, round(fraction * steps))",
        "round(fraction * steps)",
        "tests/jobs/train/test_optimizers.py",
    ),
    Mutant(
        "adapter's weight in a picture ignored",
        f"{TRAIN}/trainable_state.py",
        "[self.low_rank[part]], [self.scale * weight])",
        "[self.low_rank[part]], [self.scale])",
        "tests/jobs/train/test_train.py",
        "pictures are made at weight 0 and 1 alone, and at 0 nothing is installed",
    ),
    Mutant(
        "optimizer not resumed",
        f"{TRAIN}/checkpoint.py",
        '    training.optimizer.load_state_dict(state["optimizer"])\n',
        "",
        "tests/jobs/train/test_checkpoint.py",
    ),
    Mutant(
        "EMA's count not resumed",
        f"{TRAIN}/ema.py",
        'self.t, self._averages = int(state["t"]), [',
        "self.t, self._averages = 0, [",
        "tests/jobs/train/test_checkpoint.py",
    ),
    Mutant(
        "non-finite checkpoint taken",
        f"{TRAIN}/checkpoint.py",
        "        and all(bool(tensor.isfinite().all()) for tensor in learned)\n",
        "",
        "tests/jobs/train/test_checkpoint.py",
    ),
    Mutant(
        "checkpoint's hash not checked",
        f"{TRAIN}/checkpoint.py",
        """ or card["sha256"] != hashlib.sha256(data).hexdigest()""",
        "",
        "tests/jobs/train/test_checkpoint.py",
    ),
    Mutant(
        "frozen tokens published as their average",
        f"{TRAIN}/ema.py",
        "[(parameter, average) for parameter, average in pairs if parameter.requires_grad]",
        "list(pairs)",
        "tests/jobs/train/test_ema.py",
    ),
    Mutant(
        "text encoders' alpha is the UNet's",
        f"{TRAIN}/write_bundle.py",
        "lora_alpha=scale * low.rank",
        "lora_alpha=card.alpha",
        "tests/platform/formats/test_export.py tests/jobs/train/test_train.py",
    ),
    Mutant(
        "bundle's header in an order of chance",
        f"{TRAIN}/write_bundle.py",
        "return in_order((Path(folder) / WEIGHTS).read_bytes())",
        "return (Path(folder) / WEIGHTS).read_bytes()",
        "tests/jobs/train/test_write_bundle.py",
    ),
    Mutant(
        "every epoch in one order",
        f"{TRAIN}/data/buckets.py",
        "generator_for(self.seed, self.purpose, self.number, epoch)",
        "generator_for(self.seed, self.purpose, self.number)",
        "tests/jobs/train/test_data.py tests/jobs/train/test_data_buckets.py",
    ),
    Mutant(
        "one posterior draw for all steps",
        f"{TRAIN}/data/dataset.py",
        'self._generator("latents", index)',
        'self._generator("latents", 0)',
        "tests/jobs/train/test_data.py",
    ),
    Mutant(
        "shuffle keeps no token in front",
        f"{TRAIN}/data/caption_choice.py",
        "parts[: spec.keep_tokens], parts[spec.keep_tokens :]",
        "parts[:0], parts",
        "tests/jobs/train/data/test_dataset.py",
    ),
    Mutant(
        "prior rows masked with their subject's mask",
        f"{TRAIN}/data/prior.py",
        "return [Source(source.file, source.size) for source in own]",
        "return own",
        "tests/jobs/train/data/test_dataset.py tests/jobs/train/data/test_shared_cache.py",
    ),
    Mutant(
        "class images whatever the VAE",
        f"{TRAIN}/data/prior.py",
        '"vae": base.vae_fingerprint, ',
        "",
        "tests/jobs/train/data/test_shared_cache.py",
    ),
    Mutant(
        "class images whatever the precision",
        f"{TRAIN}/data/prior.py",
        '"precision": str(self.loaded.unet.dtype), ',
        "",
        "tests/jobs/train/data/test_shared_cache.py",
    ),
    Mutant(
        "checkpointed and plain jobs share a call",
        f"{TRAIN}/pack.py",
        "return (*drawn.noisy.x.shape, self.training.spec.recipe.gradient_checkpointing, drawn.chunks)",
        "return (*drawn.noisy.x.shape, drawn.chunks)",
        "tests/jobs/train/test_pack_separate.py",
    ),
    Mutant(
        "long and short captions share a call",
        f"{TRAIN}/pack.py",
        "self.training.spec.recipe.gradient_checkpointing, drawn.chunks)",
        "self.training.spec.recipe.gradient_checkpointing)",
        "tests/jobs/train/packs/test_long_captions.py",
    ),
    Mutant(
        "a job's adapters stay on the base",
        f"{PLATFORM}/numerics/rowlora.py",
        "            yield\n        finally:\n            self.set(None)",
        "            yield\n        finally:\n            pass",
        "tests/jobs/train/packs/test_nothing_outlives.py",
    ),
    Mutant(
        "an exact job shares calls",
        f"{TRAIN}/batching.py",
        "return [jobs[i : i + 1] for i in range(len(jobs))]",
        "return [jobs]",
        "tests/jobs/train/test_exact_training.py",
    ),
    Mutant(
        "memory of a failed call is held while halves are asked",
        f"{TRAIN}/batching.py",
        "        except torch.OutOfMemoryError:\n",
        "        except torch.OutOfMemoryError as problem:\n            self.failed = problem\n",
        "tests/jobs/train/test_out_of_memory.py",
    ),
    Mutant(
        "a size that failed once is never tried again",
        f"{TRAIN}/batching.py",
        "            self.jobs, self.fitted = 2 * self.jobs, 0",
        "            self.fitted = 0",
        "tests/jobs/train/packs/test_out_of_memory.py",
    ),
    Mutant(
        "a peak is told after the device forgot it",
        f"{TRAIN}/pack.py",
        "ends = [(run, _end(run, outcome, self.memory.peak))",
        "ends = [(run, _end(run, outcome, None))",
        "tests/jobs/train/test_progress.py",
    ),
    Mutant(
        "rates count other lives' steps",
        f"{TRAIN}/progress.py",
        "rate = (step - self._before.step) / self._elapsed",
        "rate = step / self._elapsed",
        "tests/jobs/train/test_progress.py",
    ),
    Mutant(
        "frozen parameters get a team's gradients",
        f"{TRAIN}/data_parallel.py",
        "            if parameter.requires_grad:\n                parameter.grad",
        "            if True:\n                parameter.grad",
        "tests/jobs/train/test_data_parallel.py",
    ),
)

SERVING = (
    Mutant(
        "a step taken again draws new noise",
        f"{SERVE}/engine/rows.py",
        "        while self._drawn <= number:\n",
        "        for _ in range(1):\n",
        "tests/serve/engine/test_rows.py",
    ),
    Mutant(
        "numbers asked as often as aliases",
        f"{SERVE}/adapters/resolver.py",
        "return self.number_ttl if wanted.isdecimal() else self.alias_ttl",
        "return self.alias_ttl",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "stale answers for ever",
        f"{SERVE}/adapters/resolver.py",
        "        and now - last.at <= freshness.ttl(wanted) + freshness.stale_for\n",
        "",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "names asked for are never forgotten",
        f"{SERVE}/adapters/resolver.py",
        "LRUCache(max_answers)",
        "LRUCache(10**12)",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "slots counted twice for what is there",
        f"{SERVE}/adapters/device_cache.py",
        "if slot.pins and key not in wanted)",
        "if slot.pins)",
        "tests/serve/adapters/test_device_cache.py",
    ),
    Mutant(
        "slots dropped first in, first out",
        f"{SERVE}/adapters/device_cache.py",
        "            self.held.move_to_end(key)\n",
        "",
        "tests/serve/adapters/test_device_cache.py",
    ),
    Mutant(
        "a replaced bundle is not read again",
        f"{SERVE}/adapters/host_cache.py",
        "(path / CARD).stat().st_mtime_ns",
        "(path / CARD).stat().st_mtime_ns * 0",
        "tests/serve/adapters/test_host_cache.py",
    ),
    Mutant(
        "host memory first in, first out",
        f"{SERVE}/adapters/host_cache.py",
        "                self._held.move_to_end(key)\n",
        "                pass\n",
        "tests/serve/adapters/test_host_cache.py",
    ),
    Mutant(
        "a layer without DoRA gains beside one with",
        f"{SERVE}/adapters/layout.py",
        "    return ones, torch.stack([ones, torch.zeros_like(ones), torch.zeros_like(ones)])\n",
        "    return ones, torch.stack([ones, ones, torch.zeros_like(ones)])\n",
        "tests/serve/adapters/test_flat_adapter.py",
    ),
    Mutant(
        "one slow step is believed for ever",
        f"{SERVE}/engine/scheduler.py",
        "            measured[min(slow)] *= DECAY\n",
        "            pass\n",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "the newest time alone counts",
        f"{SERVE}/engine/scheduler.py",
        "ms if cost not in measured else measured[cost] + NEW_WEIGHT * (ms - measured[cost])",
        "ms",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "the first shape always steps",
        f"{SERVE}/engine/scheduler.py",
        "self._queue = [*queue[1:], queue[0]]",
        "self._queue = queue",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "a route depends on the order of adapters",
        f"{SERVE}/replicas/routing.py",
        '",".join(sorted(wanted))',
        '",".join(wanted)',
        "tests/serve/replicas/test_routing.py",
    ),
    Mutant(
        "sides up to four times the base's",
        f"{SERVE}/engine/requests.py",
        "return least, base.resolution * 2",
        "return least, base.resolution * 4",
        "tests/serve/engine/test_requests.py",
    ),
    Mutant(
        "the engine keeps the number of every request",
        f"{SERVE}/engine/engine.py",
        "            self._stepped.discard(id_)\n",
        "",
        "tests/serve/engine/test_engine.py::test_nothing_is_kept_of_requests_that_ended",
    ),
)

PLATFORMS = (
    Mutant(
        "a card may name files elsewhere",
        f"{PLATFORM}/bundle/bundle.py",
        "if Path(name).name != name or not file.is_file():",
        "if not file.is_file():",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "files of any size are read",
        f"{PLATFORM}/bundle/bundle.py",
        "if file.stat().st_size > MAX_BYTES:",
        "if file.stat().st_size < 0:",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "a bundle is replaced in place",
        f"{PLATFORM}/util/files.py",
        "        target.rename(old)\n",
        "        shutil.rmtree(target)\n",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "the cache drops in any order",
        f"{PLATFORM}/bundle/disk_cache.py",
        "sorted(self._entries(), key=lambda entry: entry.used)",
        "sorted(self._entries(), key=lambda entry: entry.digest)",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "the cache leaves what killed processes left",
        f"{PLATFORM}/bundle/disk_cache.py",
        "            self._sweep()\n",
        "",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "the cache verifies a folder once",
        f"{PLATFORM}/bundle/disk_cache.py",
        "if seen is None or seen[0] != looks:",
        "if seen is None:",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "a key given twice overwrites",
        f"{PLATFORM}/bundle/adapter.py",
        "        if kind in tensors:\n",
        "        if False:\n",
        "tests/serve/engine/test_engine.py::test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base",
    ),
    Mutant(
        "non-finite adapters are loaded",
        f"{PLATFORM}/bundle/adapter.py",
        "if not torch.isfinite(tensor).all():",
        "if False:",
        "tests/serve/engine/test_engine.py::test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base",
    ),
    Mutant(
        "targets match within a name",
        f"{PLATFORM}/targets.py",
        """layer.endswith(f".{suffix}")""",
        "layer.endswith(suffix)",
        "tests/platform/test_targets.py",
    ),
    Mutant(
        "half-written folders are adapters",
        f"{PLATFORM}/bundle/folder_registry.py",
        'glob(f"[!.]*/{CARD}")',
        'glob(f"*/{CARD}")',
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "registering again moves champion",
        f"{TRACKING}/registry.py",
        """if version.tags.get("published") != "true":  # new""",
        "if True:  # new",
        "tests/platform/tracking/test_tracking_registry.py",
    ),
    Mutant(
        "the registry reads one page",
        f"{TRACKING}/registry.py",
        "        token = page.token\n",
        "        token = None\n",
        "tests/platform/tracking/test_tracking_registry.py tests/platform/bundle/test_folder_registry.py",
    ),
    Mutant(
        "the same job trained again is its first bundle",
        f"{TRACKING}/registry.py",
        "    if DIGEST in version.tags:\n        return bool(",
        "    if False:\n        return bool(",
        "tests/platform/bundle/test_folder_registry.py tests/platform/tracking/test_tracking_registry.py",
    ),
    Mutant(
        "what was said last stays",
        f"{TRACKING}/points.py",
        "for entry in reversed(entries):",
        "for entry in entries:",
        "tests/platform/tracking/test_tracking_spool.py",
    ),
    Mutant(
        "a request whose answer was lost is not asked for",
        f"{TRACKING}/tracker.py",
        "            self._must_ask = True  # it may have arrived all the same\n",
        "",
        "tests/platform/tracking/test_tracking_broken.py",
    ),
    Mutant(
        "batches of any size",
        f"{TRACKING}/delivery.py",
        "        if batch and size > BATCH:\n            break\n",
        "",
        "tests/platform/tracking/test_tracking.py",
    ),
    Mutant(
        "half a line stays in the journal",
        f"{TRACKING}/journal.py",
        "            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)\n",
        "",
        "tests/platform/tracking/test_tracking_broken.py",
    ),
)

QUEUE = (
    Mutant(
        "a clock that went back keeps a job",
        f"{JOBS}/rows.py",
        "(wait <= 0 or wait > BACKOFF_MOST)",
        "wait <= 0",
        "tests/jobs/jobqueue/test_job_state.py tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "a third seed is tried",
        f"{JOBS}/rows.py",
        'if kind == "non-finite" and (row.seed_shift + 1) % SEEDS:',
        'if kind == "non-finite" and (row.seed_shift + 1) % (SEEDS + 1):',
        "tests/jobs/jobqueue/test_job_state.py",
    ),
    Mutant(
        "another seed in the same run",
        f"{JOBS}/rows.py",
        "seed_shift=row.seed_shift + 1, run_id=None, furthest=0",
        "seed_shift=row.seed_shift + 1, furthest=0",
        "tests/jobs/jobqueue/test_job_state.py tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "a retried job keeps its record",
        f"{JOBS}/rows.py",
        "not_before=None, retries=0, lanes_lost=0, furthest=0, pack_limit=None, updated=now",
        "not_before=None, retries=0, updated=now",
        "tests/jobs/jobqueue/test_job_state.py tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "a job may wait for ever for a disk",
        f"{JOBS}/rows.py",
        'if kind in ("publish", "storage") and row.retries < WAITS:',
        'if kind in ("publish", "storage"):',
        "tests/jobs/jobqueue/test_job_state.py",
    ),
    Mutant(
        "a lane's death is counted though it got further",
        f"{JOBS}/rows.py",
        "lost = 1 if got_further else row.lanes_lost + 1",
        "lost = row.lanes_lost + 1",
        "tests/jobs/jobqueue/test_job_state.py",
    ),
    Mutant(
        "rows written over a newer revision",
        f"{JOBS}/store.py",
        """update(jobs).where(*key, jobs.c.revision == seen["revision"]).values(values)""",
        "update(jobs).where(*key).values(values)",
        "tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "a lost answer's job is not given again",
        f"{JOBS}/store.py",
        'if row.state == "running" and row.lane == lane and row.id not in holding:',
        "if False:",
        "tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "an equal submission takes lanes at once",
        f"{JOBS}/policy.py",
        "return tenure >= TENURE_SECONDS and any(",
        "return any(",
        "tests/jobs/jobqueue/test_policy.py",
    ),
    Mutant(
        "a job that must be alone joins others",
        f"{JOBS}/policy.py",
        "limit = 1 if alone_until(row) else row.pack_limit",
        "limit = row.pack_limit",
        "tests/jobs/jobqueue/test_policy.py",
    ),
    Mutant(
        "a stale attempt is compared",
        f"{JOBS}/desk.py",
        "            return None\n        return self._scores.verdict(",
        "            pass\n        return self._scores.verdict(",
        "tests/jobs/evaluate/test_trial_score.py::test_only_the_attempt_that_holds_a_job_is_answered",
    ),
    Mutant(
        "leases by the wall's clock",
        f"{JOBS}/desk.py",
        "self._clock = clock or SteadyClock()",
        "self._clock = clock or time.time",
        "tests/jobs/jobqueue/test_store.py",
    ),
    Mutant(
        "an unreachable MLflow is a defect",
        f"{JOBS}/kinds.py",
        '    (UnreachableError, "publish"),\n',
        "",
        "tests/jobs/jobqueue/test_policy.py",
    ),
    Mutant(
        "compared at the last step too",
        f"{JOBS}/halving.py",
        "while rung < self.steps:",
        "while rung <= self.steps:",
        "tests/jobs/jobqueue/test_asha.py",
    ),
    Mutant(
        "an id depends on the number of workers",
        f"{JOBS}/plan.py",
        """    del content["recipe"]["workers"]  # changes nothing\n""",
        "",
        "tests/jobs/intake/test_plan.py",
    ),
    Mutant(
        "a submission's id depends on the subjects' order",
        f"{JOBS}/plan.py",
        """sorted(job.id for job in jobs)""",
        """[job.id for job in jobs]""",
        "tests/jobs/intake/test_plan.py",
    ),
    Mutant(
        "a draw depends on the draws before it",
        f"{PLATFORM}/config/sweep.py",
        "{i}/{key}",
        "{i}",
        "tests/platform/config/test_sweep.py",
    ),
)

MUTANTS = (*FIRST, *NUMERIC, *TRAINING, *QUEUE, *PLATFORMS, *SERVING)
