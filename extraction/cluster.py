"""Extraction on a cluster, by Ray Data: workers load the model once; rows come and go in any order.

Input files are cut as for several processes of one machine. A row's name is its file, its line and, where a
line holds several records, which of them: by it a restart knows what is missing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from extraction.cluster_store import DONE_FILE, JOB_FILE, PARTS, Store
from extraction.distant import find_files, is_arrow_error, open_file
from extraction.files import FileJob, FileSummary
from extraction.options import ExtractorOptions
from extraction.parts import MAX_PART, MIN_PART, CutFile, cut_file
from extraction.records import TEXT_FIELD, Record, record_of
from utils.common_utils import UserError, log
from utils.progress import Progress

# Small blocks: a task of a worker is a block, and what is lost with a worker or the driver are its tasks.
BLOCK_BYTES = 1 << 17
READER_CPUS = 0.5  # other than the workers', so that reading is not made a part of their tasks
START_SECONDS = 300  # that Ray has to start, or to join a cluster
_ALONE = "机器太忙或内存不足时会这样，请稍后重试；只有一台机器时可以用 inference_triplet.py，不需要 Ray。"
MAX_ERRORED_BLOCKS = 10  # whose rows are left for a restart, before the job is given up
PARQUET = "parquet"


@dataclass(frozen=True)
class ClusterJob:
    """What is to be done.

    Args:
        inputs: files, patterns or addresses.
        output: a folder on a disk that all machines see, or an address.
        form: of the results: "jsonl" or "parquet".
        text_field: see `read_records`.
        options: of the extractor.
        workers: how many at least and at most.
        gpus, cpus: of each worker; fractions share a GPU.
        with_scores, with_spans: what results say of their triplets.
        address: of the cluster; None for one that the environment names, or this machine alone.
    """

    inputs: tuple[str, ...]
    output: str
    form: str
    text_field: str | None
    options: ExtractorOptions
    workers: tuple[int, int]
    gpus: float
    cpus: float
    with_scores: bool
    with_spans: bool
    address: str | None


def run_on_cluster(job: ClusterJob) -> int:
    """Do what is missing of a job, and join the results when all is there.

    Returns:
        The exit code: 0 if every row got its result.

    Raises:
        UserError: Ray is not installed, the cluster isn't there, or the input has changed.
    """
    ray = load_ray()
    store = Store(job.output)
    inputs = find_files(job.inputs)  # before a cluster is waited for
    names = result_names(inputs)
    connect(ray, job.address, math.ceil(job.workers[1] * job.cpus))
    cuts = _cut_inputs(store, inputs, job, ray)
    if (done := store.read_done(job.form)) is not None:
        return describe(job, done)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.max_errored_blocks = MAX_ERRORED_BLOCKS
    context.execution_options.preserve_order = False
    finished = store.find_done()
    missing = _rows(ray, cuts, finished)
    if not finished or missing.count():
        log(f"{len(inputs)} 个文件，{sum(len(parts_of(cut)) for cut in cuts)} 份；开始抽取。")
        with _failures_told(ray):
            missing.map_batches(
                Worker,
                fn_constructor_args=(job,),
                batch_size=None,  # a block at a time
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=job.workers[0], max_size=job.workers[1]),
                num_gpus=job.gpus or None,
                num_cpus=job.cpus,
            ).write_parquet(store.parts)
        missing = _rows(ray, cuts, store.find_done())
        if left := missing.count():
            raise UserError(f"还有 {left} 行没有做完（原因见上面的日志）：重新运行同一命令，只做这些行。")
    counts = store.join(names, job.form)
    store.write_json(DONE_FILE, counts)
    store.remove_parts()
    return describe(job, counts)


@contextmanager
def _failures_told(ray: Any) -> Iterator[None]:
    """Say in Chinese why tasks of a cluster have failed for good.

    Raises:
        UserError: they have.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[-1][:300]
        raise UserError(f"没有做完（{reason}）：重新运行同一命令，只做缺的行。") from error


def load_ray() -> Any:
    """Return the library.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            "没有安装 Ray：请先运行 pip install -r requirements-ray.txt；"
            "只有一台机器时用 inference_triplet.py，不需要它。"
        ) from error
    return ray


def connect(ray: Any, address: str | None, workers: int) -> None:
    """Join a cluster; without an address and outside one, this machine becomes one.

    Args:
        ray: the library.
        address: of the cluster.
        workers: CPUs that they need.

    Raises:
        UserError: the cluster doesn't answer.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    if ray.is_initialized():
        return
    environment = {"PYTHONPATH": str(PurePosixPath(__file__).parent.parent), "PYTHONUTF8": "1"}
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "log_to_driver": False}
    if address is None and "RAY_ADDRESS" not in os.environ:
        # Ray's 15 would let other programs of a busy machine stop its workers from even beginning.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # CPUs as Ray counts them: readers and writers must find a place beside the workers.
        options |= {"num_cpus": max(os.cpu_count() or 1, workers + 2), "include_dashboard": False}
    place = address or os.environ.get("RAY_ADDRESS")
    watch = threading.Timer(START_SECONDS, _give_up, [place])
    watch.daemon = True
    watch.start()
    try:
        ray.init(address, logging_level=logging.WARNING, **options)
    except Exception as error:  # a node that starts too slowly raises just that
        if place is None:
            raise UserError(f"Ray 在本机启动不了（{error}）：{_ALONE}") from error
        raise UserError(f"连不上 Ray 集群 {place}（{error}）：请检查地址和令牌。") from error
    finally:
        watch.cancel()


def _give_up(place: str | None) -> None:
    """End this process: Ray waits for a cluster that doesn't come, and can't be interrupted."""
    if place is None:
        log(f"错误：Ray 在 {START_SECONDS} 秒内没有在本机启动：{_ALONE}")
    else:
        log(f"错误：{START_SECONDS} 秒内没有连上 Ray 集群 {place}：请检查地址、防火墙，以及集群是否还在。")
    os._exit(2)


def result_names(inputs: list[str]) -> list[str]:
    """Return what the results of each input are called: its path below the folder that all have in common."""
    paths = [PurePosixPath(os.path.normpath(_path_of(name))) for name in inputs]
    common = os.path.commonpath([str(path.parent) for path in paths])
    names = [str(path.relative_to(common).with_suffix("")) for path in paths]
    if len(set(names)) < len(names):  # a.csv beside a.txt
        names = [str(path.relative_to(common)) for path in paths]
    names = [f"_{name}" if PurePosixPath(name).parts[0] == PARTS else name for name in names]
    if len(set(names)) < len(names):
        raise UserError("几个输入的名字只差 . 或 ..，它们的结果会写到同一个文件里，请改用别的写法。")
    return names


def _path_of(name: str) -> str:
    """Return the path of an input, or that behind an address; without "..", which would lead elsewhere."""
    if "://" in name:
        return "/" + name.split("://")[-1].lstrip("/")
    return os.path.abspath(name)  # noqa: PTH100 (which leaves links as they are)


def describe(job: ClusterJob, counts: list[tuple[str, int, int]]) -> int:
    """Say what there is; return the exit code."""
    failed = sum(count for *_, count in counts)
    log(f"共 {sum(rows for _, rows, _ in counts)} 行，{len(counts)} 个文件，结果在 {job.output}。")
    if failed:
        log(f"{failed} 行没有得到结果，原因见输出中的 error 字段。")
    return 1 if failed else 0


def _cut_inputs(store: Store, inputs: list[str], job: ClusterJob, ray: Any) -> list[dict[str, Any]]:
    """Return how the inputs are cut, as JSON; as in an earlier run, if they haven't changed.

    Raises:
        UserError: they have.
    """
    known = store.read_json(JOB_FILE)
    if known is None:
        store.check_is_free()
    else:
        try:
            changed = known["inputs"] != inputs or known["text_field"] != job.text_field
            for name, cut in zip(inputs, [] if changed else known["cuts"], strict=not changed):
                changed = changed or not _is_still(cut, open_file(name), job.text_field)
        except OSError as error:
            raise UserError(f"读不了输入文件（{error}），请检查路径和权限。") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{job.output}/{JOB_FILE} 不是 extract_ray.py 写的，或已损坏：请换一个 --output。"
            ) from error
        if changed:
            raise UserError(
                f"输入文件（或 --text_field）在上次运行之后变了，{job.output} 里是按原来的做的结果："
                "请换回原来的，或换一个 --output。"
            )
        return list(known["cuts"])
    cut = ray.remote(num_cpus=1)(cut_input)
    with _failures_told(ray):
        cuts = ray.get([cut.remote(name, job.text_field) for name in inputs])
    for item in cuts:
        if "problem" in item:
            raise UserError(item["problem"])
    store.write_json(JOB_FILE, {"inputs": inputs, "text_field": job.text_field, "cuts": cuts})
    return list(cuts)


def cut_input(name: str, text_field: str | None) -> dict[str, Any]:
    """Cut a file; return it as JSON, or what is wrong with it as `problem`."""
    file: Any = open_file(name)
    try:
        if file.suffix.lower() == f".{PARQUET}":
            import pyarrow.parquet as pq

            with file.open("rb") as opened:
                rows = pq.ParquetFile(opened)
                field = text_field or TEXT_FIELD
                if field not in rows.schema_arrow.names:
                    columns = "、".join(rows.schema_arrow.names)
                    return {
                        "problem": f"{name} 没有名为 {field} 的列（有 {columns}）：请用 --text_field 指定。"
                    }
                sizes = [rows.metadata.row_group(n).num_rows for n in range(rows.num_row_groups)]
            size = file.stat().st_size
            cut: dict[str, Any] = {"kind": PARQUET, "groups": sizes, "size": size, "text_field": text_field}
        else:
            size = file.stat().st_size
            cut = cut_file(file, text_field, max(size // MAX_PART, min(size // MIN_PART, 64), 1)).to_dict()
    except UserError as error:
        return {"problem": str(error)}
    except OSError as error:
        return {"problem": f"读不了输入文件 {name}（{error}），请检查路径和权限。"}
    except Exception as error:
        if not is_arrow_error(error):
            raise
        return {"problem": f"{name} 不是完好的 parquet 文件（{str(error).splitlines()[0][:200]}）。"}
    return {"name": name, **cut}


def _is_still(cut: dict[str, Any], file: Any, text_field: str | None) -> bool:
    if cut["kind"] == PARQUET:
        return bool(file.stat().st_size == cut["size"])
    return CutFile.from_dict(file, cut).is_still(file, text_field)


def parts_of(cut: dict[str, Any]) -> list[Any]:
    """Return the parts of a file that is cut."""
    return list(cut["groups"] if cut["kind"] == PARQUET else cut["parts"])


def read_part(cut: dict[str, Any], number: int, text_field: str | None) -> Iterator[Record]:
    """Yield the records of a part."""
    file: Any = open_file(cut["name"])
    if cut["kind"] != PARQUET:
        yield from CutFile.from_dict(file, cut).records(number)
        return
    import pyarrow.parquet as pq

    with file.open("rb") as opened:
        rows = pq.ParquetFile(opened).read_row_group(number).to_pylist()
    for line, fields in enumerate(rows, sum(cut["groups"][:number]) + 1):
        yield record_of(fields, text_field or TEXT_FIELD, line)


def _rows(ray: Any, cuts: list[dict[str, Any]], done: dict[int, list[tuple[int, int, int]]]) -> Any:
    """Return the records that are not done as a data set of Ray."""
    tasks = [
        {"file": file, "part": part} for file, cut in enumerate(cuts) for part in range(len(parts_of(cut)))
    ]
    rows = ray.data.from_items(tasks or [{"file": 0, "part": -1}], override_num_blocks=max(len(tasks), 1))
    known = ray.put((cuts, done))
    return rows.flat_map(partial(read_rows, known), num_cpus=READER_CPUS)


def read_rows(known: Any, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part that are not done.

    Args:
        known: reference to the files as they are cut, and to what is done of each.
        task: which part of which file.
    """
    import ray

    if task["part"] < 0:  # no file has a part
        return
    cuts, all_done = ray.get(known)
    cut, done = cuts[task["file"]], all_done.get(task["file"], [])
    for line, records in groupby(read_part(cut, task["part"], cut["text_field"]), lambda record: record.line):
        for sub, record in enumerate(records):
            if not is_done(done, line, sub):
                yield {"file": task["file"], "line": line, "sub": sub, "record": _pack(record)}


def _pack(record: Record) -> str:
    try:
        return json.dumps([record.fields, record.problem], default=str)
    except RecursionError:  # as the command does: only the input's own fields can be as deep
        texts = {name: value if isinstance(value, str) else None for name, value in record.fields.items()}
        return json.dumps([texts, record.problem])


def is_done(done: list[tuple[int, int, int]], line: int, sub: int) -> bool:
    """Tell whether a record is in one of the ranges, which are in order of `sub`, then of lines."""
    place = bisect_right(done, (sub, line), key=lambda item: (item[2], item[0])) - 1
    return place >= 0 and done[place][2] == sub and line <= done[place][1]


class Worker:
    """An actor with a model; called with a block of rows, it returns their results.

    Args:
        job: what is to be done.
    """

    def __init__(self, job: ClusterJob) -> None:
        import torch  # of the machine that this worker runs on

        from extraction.loading import load_extractor, read_settings

        self._job = job
        settings = read_settings(job.options)
        self._extractor = load_extractor(settings)
        self._batch_size = self._extractor.batch_size
        self._gone = getattr(torch, "AcceleratorError", ())

    def __call__(self, block: Any) -> Any:
        """Extract the sentences of a block.

        Args:
            block: a table with the columns file, line, sub and record.

        Returns:
            A table with result in the place of record.
        """
        import pyarrow as pa

        records = [Record(*json.loads(content)) for content in block["record"].to_pylist()]
        results = _Collected()
        job = FileJob(records, results, self._batch_size, self._job.with_scores, self._job.with_spans)
        try:
            if job.find_rest():
                job.finish(self._extractor, Progress(enabled=False))
        except self._gone:  # nothing works on this device any more: another process has to begin anew
            os._exit(1)
        return block.drop_columns("record").append_column("result", pa.array(results.lines, pa.string()))


class _Collected:
    """A place for results in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def match(self, heads: list[bytes], summary: FileSummary) -> int:
        """Return 0: nothing is there yet."""
        return 0

    def check_end(self) -> None:
        """Find nothing to complain about."""

    def write(self, line: bytes) -> None:
        """Keep a line."""
        self.lines.append(line.decode().rstrip("\n"))

    def close(self) -> None:
        """Keep the lines."""
