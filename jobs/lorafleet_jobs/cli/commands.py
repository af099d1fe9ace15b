"""The training commands: what the entry point `lorafleet.commands` loads. Imports none of them."""

from __future__ import annotations

import typer

from lorafleet.commands.lazy import Command, register_commands

TRAIN, FOLLOW, REVIEW, REMOVE = "Train", "Follow what was submitted", "Look and choose", "Remove"
COMMANDS = (
    Command(
        "init",
        "lorafleet_jobs.cli.init_command:init",
        "Write a manifest for a folder that holds a folder of photos for each subject.",
        TRAIN,
    ),
    Command(
        "check",
        "lorafleet_jobs.cli.plan_commands:check",
        "Look at every subject's images and captions, and say what is wrong with them.",
        TRAIN,
    ),
    Command(
        "caption",
        "lorafleet_jobs.cli.caption_command:caption",
        "Write captions for photographs that have none, with TOK in the subject's place.",
        TRAIN,
    ),
    Command(
        "plan",
        "lorafleet_jobs.cli.plan_commands:plan",
        "Show what a submission would do: jobs, what exists and what is new, time, memory and cost. Starts nothing.",
        TRAIN,
    ),
    Command(
        "submit",
        "lorafleet_jobs.cli.submit_command:submit",
        "Train every subject of a manifest, and publish its adapters.",
        TRAIN,
    ),
    Command(
        "ls",
        "lorafleet_jobs.cli.status_commands:ls",
        "List every submission, the newest first.",
        FOLLOW,
    ),
    Command(
        "status",
        "lorafleet_jobs.cli.status_commands:status",
        "Show how a submission stands.",
        FOLLOW,
    ),
    Command(
        "watch",
        "lorafleet_jobs.cli.status_commands:watch",
        "Follow a submission until it ends.",
        FOLLOW,
    ),
    Command(
        "cancel",
        "lorafleet_jobs.cli.control_commands:cancel",
        "Cancel a submission, or some of its jobs; what is finished stays.",
        FOLLOW,
    ),
    Command(
        "retry",
        "lorafleet_jobs.cli.control_commands:retry",
        "Queue failed and cancelled jobs again, and go on in the background with whatever has not ended.",
        FOLLOW,
    ),
    Command(
        "logs",
        "lorafleet_jobs.cli.control_commands:logs",
        "Show what happened to a job: attempts, steps, failures with their tracebacks.",
        FOLLOW,
    ),
    Command(
        "wait",
        "lorafleet_jobs.cli.control_commands:wait",
        "Wait until submissions have ended, detached ones too.",
        FOLLOW,
    ),
    Command(
        "forget",
        "lorafleet_jobs.cli.forget_commands:forget",
        "Remove everything of a subject for good: adapters, pictures, latents, checkpoints, runs, logs.",
        REMOVE,
    ),
    Command(
        "prune",
        "lorafleet_jobs.cli.forget_commands:prune",
        "Show what of a home nothing needs any more, and with --yes delete it.",
        REMOVE,
    ),
    Command(
        "evaluate",
        "lorafleet_jobs.cli.evaluate_command:evaluate",
        "Say which adapters to keep: likeness, prompt, drift, memorisation beside the base. Each score goes to MLflow.",
        REVIEW,
    ),
)


def register(app: typer.Typer) -> None:
    """Adds `init`, `check`, `caption` and `plan`, everything about submissions, `evaluate`, and what removes things."""
    register_commands(app, COMMANDS)
