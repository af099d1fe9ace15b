"""The toy world's scores, by its frozen judge. They are neither DINO nor CLIP and say nothing about photographs.

    toy-ID         mean cosine of samples to the subject's real views (the judge's identity embedding)
    toy-top-1      share of samples nearer to the subject than to all others: the subjects evaluated together, and five
    toy-mAP        look-alikes of each; mAP ranks single views (Finer-Personalization Rank, 2512.19026)
    toy-PF         share of the prompt's attributes that the picture shows: background and class, also one by one
    toy-PRES       mean cosine of "a photo of a <class>" with the adapter on to the real views; lower is better
    toy-PRES-class share of those pictures that still show the class
    toy-PRES-DIV   mean 1 - cosine between those pictures: to be read against the base's
    toy-DIV        mean 1 - cosine between samples of one prompt, and toy-DIV-px their mean |a - b|
    toy-MEM        similarity (1 - mean |a - b|) to the nearest training picture less that to the nearest held-out view;
    toy-MEM-emb    above 0 means copies. The same by cosine, which hardly sees pose and so hardly sees copies

Class and toy-PF are of the class that the subject is, so a wrong class word shows in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.errors import DataError
from lorafleet.toy.judges import Judge, load_judge
from lorafleet.toy.render import SIDE
from lorafleet.toy.world import BACKGROUNDS, CLASSES
from lorafleet_jobs.evaluate import measures
from lorafleet_jobs.evaluate.looks import LookAlike, embed, look_alikes
from lorafleet_jobs.evaluate.pictures import ArmSamples, Prompt, SubjectPictures
from lorafleet_jobs.evaluate.suite import LEAVE_ONE_OUT, Scores, score

Similarity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ToyScores(Scores):
    """The toy world's scores of one subject under one arm."""

    identity: float | None = score("toy-ID", "higher", aspect="fidelity")
    top_1: float | None = score("toy-top-1", "higher")
    mean_average_precision: float | None = score("toy-mAP", "higher")
    prompt: float | None = score("toy-PF", "higher", aspect="prompt")
    prompt_background: float | None = score("toy-PF-background", "higher", 1)
    prompt_class: float | None = score("toy-PF-class", "higher", 1)
    preservation: float | None = score("toy-PRES", "lower", 1, "drift")
    preserved_class: float | None = score("toy-PRES-class", "higher", 1)
    preserved_diversity: float | None = score("toy-PRES-DIV", "higher", 1)
    diversity: float | None = score("toy-DIV", "higher", 2)
    pixel_diversity: float | None = score("toy-DIV-px", "higher", 2)
    memorisation: float | None = score("toy-MEM", "lower", 2, "memorised")
    embedding_memorisation: float | None = score("toy-MEM-emb", "lower", 2)


class ToySuite:
    """The judge's scores among the subjects evaluated together and their look-alikes."""

    title: str = f"toy base, {SIDE} px"
    scores: type[Scores] = ToyScores
    prompts = tuple(Prompt(f"a photo of {{subject}} {words}", place) for place, words in BACKGROUNDS.items())

    def __init__(self, subjects: Sequence[SubjectPictures], judge: Judge | None = None) -> None:
        self.judge = judge or load_judge()
        for subject in subjects:
            if subject.noun not in CLASSES:
                known = ", ".join(CLASSES)
                raise DataError(
                    f"subject {subject.name!r} is of class {subject.noun!r}, which the toy world has not; its judge "
                    f"knows {known}; evaluate on a real base"
                )
        self.notes: tuple[str, ...] = (LEAVE_ONE_OUT,) if any(subject.held_out is None for subject in subjects) else ()
        self.galleries = {subject.name: embed(self.judge, subject.gallery) for subject in subjects}
        self.look_alikes = self._look_alikes(subjects)

    def _look_alikes(self, subjects: Sequence[SubjectPictures]) -> dict[str, Tensor]:
        """Embeddings by look-alike; one that resembles two subjects stands once."""
        chosen: dict[str, tuple[LookAlike, int]] = {}
        for subject in subjects:
            for found in look_alikes(self.galleries[subject.name], subject.noun):
                chosen.setdefault(found.name, (found, len(subject.gallery)))
        return {name: embed(self.judge, found.gallery(count)) for name, (found, count) in chosen.items()}

    def others(self, subject: str) -> list[Tensor]:
        """Everybody else's gallery, embeddings [m, d] each."""
        return [g for name, g in self.galleries.items() if name != subject] + list(self.look_alikes.values())

    def of_made(self, subject: SubjectPictures, made: ArmSamples) -> ToyScores:
        """Scores of what an arm made of a subject."""
        samples = embed(self.judge, made.flat)
        own = self.galleries[subject.name]
        background, noun = self._prompt_fidelity(subject, made)
        return ToyScores(
            identity=measures.fidelity(samples, own),
            top_1=measures.top_1(samples, own, self.others(subject.name)),
            mean_average_precision=measures.mean_average_precision(samples, own, self.others(subject.name)),
            prompt=(background + noun) / 2,
            prompt_background=background,
            prompt_class=noun,
            **self._preservation(subject, made.of_class),
            diversity=measures.embedding_diversity(samples.unflatten(0, made.pictures.shape[:2])),
            pixel_diversity=measures.pixel_diversity(made.pictures),
            memorisation=self._memorisation(subject, made.flat, measures.pixel_similarity),
            embedding_memorisation=self._memorisation(subject, made.flat, self._cosine),
        )

    def of_real(self, subject: SubjectPictures) -> ToyScores:
        """The ceiling of fidelity: held-out views against the gallery, without such each real view against the rest."""
        own, others = self.galleries[subject.name], self.others(subject.name)
        if subject.held_out is not None:
            queries = [(embed(self.judge, subject.held_out), own)]
        elif len(own) > 1:
            queries = [(own[i : i + 1], torch.cat([own[:i], own[i + 1 :]])) for i in range(len(own))]
        else:
            return ToyScores()
        n = len(queries)
        return ToyScores(
            identity=sum(measures.fidelity(q, g) for q, g in queries) / n,
            top_1=sum(measures.top_1(q, g, others) for q, g in queries) / n,
            mean_average_precision=sum(measures.mean_average_precision(q, g, others) for q, g in queries) / n,
        )

    def wrong_noun(self, noun: str) -> str:
        """The next class of the world's list."""
        return CLASSES[(CLASSES.index(noun) + 1) % len(CLASSES)]

    def _prompt_fidelity(self, subject: SubjectPictures, made: ArmSamples) -> tuple[float, float]:
        asked = [prompt.background for prompt in made.prompts for _ in range(made.pictures.shape[1])]
        seen = self.judge.read(made.flat * 2 - 1)
        places = sum(one["background"] == place for one, place in zip(seen, asked, strict=True))
        return places / len(seen), sum(one["class"] == subject.noun for one in seen) / len(seen)

    def _preservation(self, subject: SubjectPictures, of_class: Tensor | None) -> dict[str, float | None]:
        if of_class is None:
            return {}
        embeddings = embed(self.judge, of_class)
        seen = self.judge.read(of_class * 2 - 1)
        return {
            "preservation": measures.fidelity(embeddings, self.galleries[subject.name]),
            "preserved_class": sum(one["class"] == subject.noun for one in seen) / len(seen),
            "preserved_diversity": measures.embedding_diversity(embeddings[None]),
        }

    def _memorisation(self, subject: SubjectPictures, samples: Tensor, similarity: Similarity) -> float | None:
        to_training = similarity(samples, subject.training)
        if subject.held_out is not None:
            return measures.memorisation(to_training, similarity(samples, subject.held_out))
        return measures.memorisation_leave_one_out(to_training, similarity(subject.training, subject.training))

    def _cosine(self, a: Tensor, b: Tensor) -> Tensor:
        return embed(self.judge, a) @ embed(self.judge, b).T
