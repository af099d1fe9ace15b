"""A server that this process starts and ends: Ray, Ray Serve and the application on them."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from lorafleet.errors import UnreachableError, first_line
from lorafleet.util.reach import await_rpc
from lorafleet_serve.replicas.deployment import build
from lorafleet_serve.replicas.serve_args import ServeArgs

OBJECT_STORE_BYTES = 256 * 2**20
APPLICATION = "lorafleet"
LOGS = "/tmp/ray/session_latest/logs/serve"


@contextmanager
def serving(
    args: ServeArgs, host: str = "127.0.0.1", port: int = 8000, *, address: str | None = None, debug: bool = False
) -> Iterator[str]:
    """Serves while the context lasts and yields the address, as in "http://127.0.0.1:8000".

    Uses the Ray cluster that this process is connected to, else the one at `address` or RAY_ADDRESS, else starts one
    here and ends it afterwards. Leaving the context finishes the accepted requests and removes the application; on a
    cluster that was running before, Ray Serve itself stays. UnreachableError if something does not start.
    """
    own = not ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS")
    if own:
        _check_free(host, port)
        _connect(address, args.most_replicas, debug)
    try:
        if own and address in (None, "local"):  # a cluster may grow
            check_gpus(args.with_defaults())
        _deploy(args, host, port, "INFO" if debug else "ERROR", debug)
        yield f"http://{host}:{port}"
    finally:
        with suppress(RayServeException):  # Serve itself may not have started
            serve.delete(APPLICATION)
        if own:
            ray.shutdown()


def _deploy(args: ServeArgs, host: str, port: int, level: str, access_log: bool) -> None:
    logs = LoggingConfig(log_level=level, enable_access_log=access_log)
    logging.getLogger("ray.serve").setLevel(level)
    application = build(args)
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=logs)
        serve.run(application, name=APPLICATION, logging_config=logs)
    except (RayError, RuntimeError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
        raise UnreachableError(f"the server does not run: {reason}; see {LOGS}") from problem


def curl_line(url: str, prompt: str = "a photo of a dog") -> str:
    """A command that asks the server for one image and writes it to a file."""
    body = f'{{"prompt": "{prompt}"}}'
    reading = (
        "import base64,json,sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)['data'][0]['b64_json']))"
    )
    return (
        f"curl -s {url}/v1/images/generations -H 'Content-Type: application/json' -d '{body}' "
        f'| python3 -c "{reading}" > image.png'
    )


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise UnreachableError(
                f"cannot listen on {host}:{port} ({problem.strerror}); give another with --host and --port"
            ) from None


def check_gpus(args: ServeArgs) -> None:
    """UnreachableError if the engines need more GPUs than Ray has: it would wait for them for ever."""
    available, wanted = ray.cluster_resources().get("GPU", 0), args.replicas * args.gpus_per_replica
    if args.device == "cuda" and wanted > available:
        raise UnreachableError(
            f"{args.replicas} replicas of {args.gpus_per_replica:g} GPUs each do not fit on this machine's "
            f"{available:g}; lower --replicas or --gpus-per-replica"
        )


def _connect(address: str | None, engines: int, debug: bool) -> None:
    level = logging.INFO if debug else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    try:
        if address is None or address == "local":
            _start_ray(engines, debug, level)
            return
        host_and_port = address.removeprefix("ray://")
        if host_and_port.rpartition(":")[2].isdecimal():
            await_rpc(host_and_port)  # Ray itself would go on trying for minutes
        ray.init(address=address, log_to_driver=debug, logging_level=level)
    except (OSError, RayError, RuntimeError, ValueError) as problem:
        where = f"{address!r}, which --address or RAY_ADDRESS names" if address else "this machine"
        raise UnreachableError(
            f"no Ray at {where} ({first_line(problem)}); see {LOGS}, or unset RAY_ADDRESS to start one here"
        ) from None


def _start_ray(engines: int, debug: bool, level: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this cluster; Ray would write one to ~/.ray
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 1, engines),  # Ray's own count; engines share the machine's CPUs
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=debug,
        logging_level=level,
    )
