"""Keys of other trainers: what they are called here, or why there is nothing of that kind.

The names are those of diffusers' DreamBooth scripts, sd-scripts (kohya), cog-sdxl and SimpleTuner.
"""

from __future__ import annotations

RENAMED = {
    "adam_beta1": "optimizer_options.betas",
    "adam_beta2": "optimizer_options.betas",
    "adam_weight_decay": "optimizer_options.weight_decay",
    "caption_column": "subjects.caption_column",
    "caption_dropout_probability": "caption.dropout",
    "caption_dropout_rate": "caption.dropout",
    "caption_prefix": "caption.prefix",
    "center_crop": "crop",
    "class_data_dir": "prior.images",
    "class_prompt": "prior.prompt",
    "do_edm_style_training": "objective",
    "enable_bucket": "buckets",
    "flip_aug": "flip",
    "gradient_accumulation_steps": "gradient_accumulation",
    "initializer_concept": "pivotal.init",
    "instance_data_dir": "subjects.images",
    "instance_prompt": "subjects.instance_prompt",
    "keep_tokens": "caption.keep_tokens",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_rank": "rank",
    "lr": "learning_rate",
    "lr_num_cycles": "lr_cycles",
    "lr_scheduler_num_cycles": "lr_cycles",
    "lr_scheduler_power": "lr_power",
    "lr_scheduler_type": "lr_scheduler",
    "lr_warmup_steps": "warmup_steps",
    "max_train_steps": "steps",
    "mixed_precision": "precision",
    "network_alpha": "alpha",
    "network_dim": "rank",
    "network_dropout": "dropout",
    "num_class_images": "prior.count",
    "num_new_tokens_per_abstraction": "pivotal.tokens",
    "optimizer_type": "optimizer",
    "prior_loss_weight": "prior.weight",
    "prodigy_beta3": "optimizer_options.beta3",
    "prodigy_decouple": "optimizer_options.decouple",
    "prodigy_safeguard_warmup": "optimizer_options.safeguard_warmup",
    "prodigy_use_bias_correction": "optimizer_options.bias_correction",
    "proportion_empty_prompts": "caption.dropout",
    "random_flip": "flip",
    "shuffle_caption": "caption.shuffle",
    "snr_gamma": "min_snr_gamma",
    "target_modules": "targets",
    "text_encoder_lr": "text_encoder_learning_rate",
    "ti_lr": "token_learning_rate",
    "token_abstraction": "pivotal.abstractions",
    "train_batch_size": "batch_size",
    "train_text_encoder": "text_encoder_lora",
    "train_text_encoder_frac": "text_encoder_lora.fraction",
    "train_text_encoder_ti": "pivotal",
    "train_text_encoder_ti_frac": "pivotal.fraction",
    "unet_lr": "learning_rate",
    "use_dora": "dora",
    "use_ema": "ema",
    "use_rslora": "rslora",
    "validation_prompt": "validation.prompts",
    "with_prior_preservation": "prior",
}
HINTS = {
    "center_crop": "center or random",
    "do_edm_style_training": "objective: edm, on an epsilon or v base; an EDM base is trained that way by itself",
    "enable_bucket": "buckets: true",
    "train_text_encoder": "text_encoder_lora: true",
    "train_text_encoder_ti": "pivotal: {tokens: 2, fraction: 0.5}",
    "use_ema": "its decay, as in ema: 0.99",
    "with_prior_preservation": "prior: {mode: generate}, images or predict",
}
ABSENT = {
    "allow_tf32": "the loss and the adapter are fp32, and the base has its own precision; set precision",
    "cache_latents": "latents are always cached, by image; leave it out",
    "checkpointing_steps": "adapters are published once they are done; validation.every makes pictures on the way",
    "clip_skip": "SDXL-shaped bases are conditioned on the penultimate layer, there is nothing to skip; leave it out",
    "enable_xformers_memory_efficient_attention": "PyTorch's own attention is used; leave it out",
    "max_token_length": "prompts have 77 tokens, as SDXL's encoders do; leave it out",
    "min_snr_weighting": "set min_snr_gamma: 5.0",
    "num_train_epochs": "training is counted in steps; set steps, as in '120/image'",
    "max_train_epochs": "training is counted in steps; set steps, as in '120/image'",
    "output_dir": "adapters go to the lorafleet home; set LORAFLEET_HOME",
    "report_to": "everything is tracked with MLflow; set MLFLOW_TRACKING_URI for a server of your own",
    "resume_from_checkpoint": "submit the same manifest again: what is done is not repeated; leave it out",
    "scale_lr": "learning_rate is taken as it is; leave it out",
    "use_8bit_adam": "set optimizer: adamw8bit",
    "v_parameterization": "what a base predicts is read from its own scheduler; leave it out",
    "xformers": "PyTorch's own attention is used; leave it out",
    "zero_terminal_snr": "the noise schedule is the base's own; leave it out",
}


def advice(key: str) -> str | None:
    """What to write in place of another trainer's key, or why it has no place here; None for an unknown key."""
    name = key.strip().lstrip("-").replace("-", "_").lower()
    if name in ABSENT:
        return ABSENT[name]
    if name not in RENAMED:
        return None
    hint = f" ({HINTS[name]})" if name in HINTS else ""
    return f"here it is {RENAMED[name]!r}{hint}"
