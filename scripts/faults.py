"""Ruin small real runs in every way that is known, and see whether they lose anything.

    python scripts/faults.py                       # all rows, some of which take minutes
    python scripts/faults.py --rows kill disk --kills 50

A run of two layers on the documentation of the standard library is trained once without a fault. Then copies of it
are killed, starved and damaged, each in a folder of its own, and taken up again by the same command: the weights have
to be the same to the last bit, and `metrics.jsonl` to have every step once. Prints what was tried and what happened;
the exit code is 1 where a run lost something.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from fault_documents import large_document
from fault_folders import divergence, flipped_bit, second_start
from fault_runs import STEPS, Bench, Fault, Run, Skipped, check, full_disk, one_error, wait_for_end

from mlm_pretrain.console import telemetry
from mlm_pretrain.io.digests import file_digest, find_fault
from mlm_pretrain.run import step_of

Row = Callable[[Bench], str]


def kill(bench: Bench) -> str:
    """kill -9 at random moments, every other one in the middle of a save"""
    killed = in_saves = finished = 0
    run = bench.new_run("kill")
    while killed < bench.kills:
        process = run.start()
        # Of a part, which begins with seconds of imports; the parts together are the run's life.
        moment = bench.random.uniform(0, 0.6 * bench.seconds)
        if not run.ends_within(process, moment) and killed % 2:
            run.wait_for_save(process, bench.random.uniform(0, 0.02))
        if process.poll() is not None:
            check(process.returncode == 0, run.said())
            bench.compare(run)
            finished += 1
            run = bench.new_run(f"kill-{finished}")
            continue
        process.kill()
        process.wait()
        killed += 1
        in_saves += run.is_saving()
    run.finish()
    bench.compare(run)
    return f"{killed} kills, {in_saves} of them within a save; {finished + 1} runs finished, all bit-identical"


def kill_of_two(bench: Bench) -> str:
    """accelerate launch, 2 processes: a rank or the launcher is killed at random moments"""
    # Dropout is drawn by each process.
    short = ("training.budget.steps=40", "model.config.attention_dropout=0", "model.config.mlp_dropout=0")
    runs = [bench.new_run(f"short-{number}", *short, processes=number) for number in (1, 2)]
    for each in runs:
        each.finish()
    for (step, one), (_, two) in zip(runs[0].losses(), runs[1].losses(), strict=True):
        check(abs(one - two) <= 1e-5 * one, f"step {step}: loss {one} on one process, {two} on two")
    whole = bench.new_run("two", processes=2)
    whole.finish()
    run = bench.new_run("two-killed", processes=2)
    slowest, killed = 0.0, []
    for number in range(max(3, bench.kills // 4)):
        launcher = run.start()
        ranks = run.ranks(launcher)
        if not run.ends_within(launcher, bench.random.uniform(0, bench.seconds / 2)) and number % 2:
            run.wait_for_save(launcher, bench.random.uniform(0, 0.02))
        if launcher.poll() is not None:
            check(launcher.returncode == 0, run.said())
            break
        victim = ("rank 1", "the launcher", "rank 0")[number % 3]
        (launcher if victim == "the launcher" else ranks[int(victim[-1])]).kill()
        began = time.monotonic()
        wait_for_end(ranks, launcher)
        slowest = max(slowest, time.monotonic() - began)
        killed.append(victim)
        # A launcher has a traceback of its own for every process that failed.
        check("/mlm_pretrain/training/" not in run.said(), run.said())
    run.finish()
    check(run.weights() == whole.weights() and run.losses() == whole.losses(), "not as the uninterrupted run on two")
    return f"{', '.join(killed)}: the others ended within {slowest:.1f} s, none was left; weights bit-identical"


def disk(bench: Bench) -> str:
    """full disk: a tmpfs fills while the run saves"""
    left = (0, 100_000, 900_000, 2_000_000)
    with full_disk(bench.folder / "disk") as disk:
        run = bench.new_run("disk")
        for room in left:
            before = len(run.checkpoints())
            process = run.start()
            run.wait_for(lambda before=before: len(run.checkpoints()) > min(before, 1), process)  # type: ignore[misc]
            run.wait_for_save(process, 0)
            disk.fill(room, until=lambda process=process: process.poll() is not None)  # type: ignore[misc]
            check(process.returncode == 2, run.said())
            one_error(run.said(), "No space left")
            kept = run.checkpoints()
            check(kept and find_fault(kept[-1]) is None, "no whole checkpoint")
            check(not run.is_saving(), "half a checkpoint was left")
            if not room:
                one_error(run.finish(exit_code=2), "No space left")
            disk.make_room()
        run.finish()
        bench.compare(run)
    return f"{len(left)} times: one line, exit code 2, the older checkpoints stood; with room it went on bit-identical"


def damage(bench: Bench) -> str:
    """newest checkpoint truncated, the next with a flipped bit, the third without manifest"""
    run = bench.stopped_run("damage", "training.save_total_limit=4")
    good, third, second, newest = run.checkpoints()[-4:]
    with (newest / "model.safetensors").open("r+b") as handle:
        handle.truncate(1000)
    flipped = bytearray((second / "optimizer.safetensors").read_bytes())
    flipped[bench.random.randrange(len(flipped))] ^= 1 << bench.random.randrange(8)
    (second / "optimizer.safetensors").write_bytes(flipped)
    (third / "manifest.json").unlink()
    said = run.finish()
    for name, fault in ((newest, "model.safetensors is damaged"), (second, "optimizer.safetensors is damaged")):
        check(f"{name}: skipped: {fault}" in said, said)
    check(f"{third}: skipped: no readable manifest.json" in said and f"going on from {good}" in said, said)
    bench.compare(run)
    return "each was skipped by name, the run went on from the fourth, bit-identical"


def metrics(bench: Bench) -> str:
    """metrics.jsonl cut in the middle of a line"""
    run = bench.stopped_run("metrics")
    file = run.folder / "metrics.jsonl"
    behind = step_of(run.checkpoints()[-1])
    lines = file.read_bytes().splitlines(keepends=True)
    check(len(lines) > behind, "no line behind the checkpoint")
    file.write_bytes(b"".join(lines[:behind]) + lines[behind][: bench.random.randrange(1, len(lines[behind]) - 1)])
    run.finish()
    bench.compare(run)
    return "the half line was dropped, each step is there once, bit-identical"


def two_runs(bench: Bench) -> str:
    """two runs started on the same directory: at once, and while one trains"""
    run = bench.new_run("same")
    first, second = run.start(), run.start("second.txt")
    codes = [run.exit_code(first), run.exit_code(second, "second.txt")]
    check(sorted(codes) == [0, 2], f"exit codes {codes}")
    log = "second.txt" if codes[1] else "said.txt"
    one_error(run.said(log), "another process is at work in this run")
    bench.compare(run)
    again = bench.new_run("same-later")
    process = again.start()
    again.wait_for_steps(20, process)
    one_error(again.finish("second.txt", exit_code=2), "another process is at work in this run")
    check(again.exit_code(process) == 0, again.said())
    bench.compare(again)
    return "one line and exit code 2 for the second, both times; the first was bit-identical"


def worker(bench: Bench) -> str:
    """a loader worker is killed at random moments"""
    run = bench.new_run("worker", "stream.dataloader_num_workers=2")
    kills = max(3, bench.kills // 4)
    for number in range(kills):
        process = run.start()
        run.wait_for_steps(1 + number * STEPS // kills, process)
        time.sleep(bench.random.uniform(0, 0.2))
        workers = psutil.Process(process.pid).children()
        check(len(workers) == 2, f"{len(workers)} workers: {run.said()}")
        bench.random.choice(workers).kill()
        check(run.exit_code(process) == 2, run.said())
        one_error(run.said(), "a loader worker was killed")
        wait_for_end(workers, process)
    run.finish()
    bench.compare(run)
    return f"{kills} times: one line, exit code 2, none was left; it went on bit-identical"


def prepare(bench: Bench) -> str:
    """kill -9 of `prepare` and of its processes at random moments"""
    whole = bench.preparing_run("prepare-whole")
    began = time.monotonic()
    whole.finish()
    seconds = time.monotonic() - began
    expected = _digests(whole)
    killed = finished = 0
    run = bench.preparing_run("prepare")
    while killed < max(4, bench.kills // 4):
        process = run.start()
        if run.ends_within(process, bench.random.uniform(seconds / 4, seconds)):
            check(process.returncode == 0 and _digests(run) == expected, run.said())
            finished += 1
            run = bench.preparing_run(f"prepare-{finished}")
            continue
        children = psutil.Process(process.pid).children()
        if killed % 2 and children:
            children[0].kill()
            check(run.exit_code(process) == 2, run.said())
            one_error(run.said(), "a process was killed")
        else:
            process.kill()
        wait_for_end(children, process)
        killed += 1
    run.finish()
    check(_digests(run) == expected, "the shards differ")
    return f"{killed} kills, {finished + 1} preparations finished, none left a process; all shards' digests the same"


def _digests(run: Run) -> dict[str, str]:
    files = [path for path in (run.folder / "prepared").rglob("*") if path.is_file()]
    return {str(path.relative_to(run.folder)): file_digest(path)["sha256"] for path in files}


def text(bench: Bench) -> str:
    """the text changes (a byte, its size) or disappears between two parts of a run"""
    file = bench.folder / "own-text" / bench.text.name
    file.parent.mkdir()
    shutil.copy(bench.text, file)
    run = bench.stopped_run("text", f"text.sources.0.path={file}")
    data = file.read_bytes()
    middle = len(data) // 2
    for changed in (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], data + b"\n"):
        file.write_bytes(changed)
        one_error(run.finish(exit_code=2), "the corpus has changed: corpus.")
    file.unlink()
    one_error(run.finish(exit_code=2), str(file))
    file.write_bytes(data)
    run.finish()
    bench.compare(run)
    return "refused by name each time, exit code 2; with the old text back it went on bit-identical"


def bad_loss(bench: Bench) -> str:
    """a learning rate of 1e6 and one of 5; a bound on the loss that some steps are above"""
    named = []
    for rate in ("1e6", "5"):
        overrides = (f"training.learning_rate={rate}", "training.warmup_steps=200", "training.max_grad_norm=0")
        run = bench.new_run(f"rate-{rate}", *overrides)
        said = run.finish(exit_code=2)
        one_error(said, "at step ")
        named.append(int(said.rpartition(" at step ")[2].split()[0]))
        saved = [step_of(path) for path in run.checkpoints()]
        check(all(step < named[-1] for step in saved), f"step {named[-1]} is bad, and {saved} were saved")
        check(all(run.is_finite(path) for path in run.checkpoints()), "what was saved is not finite")
    bound = sorted(loss for _, loss in bench.losses[:20])[-3]
    run = bench.new_run("skip", "training.on_bad_loss=skip", f"training.max_loss={bound}")
    left_out = run.finish().count(": left out")
    counted = run.skipped_steps()
    check(0 < left_out == counted, f"{left_out} steps were left out, {counted} counted")
    stopped = f"stop: steps {named[0]} and {named[1]} were named, exit code 2, nothing bad was saved"
    return f"{stopped}; skip: {left_out} were left out and counted"


ROWS: dict[str, Row] = {
    row.__name__: row
    for row in (
        *(kill, kill_of_two, disk, damage, metrics, two_runs, worker, prepare, text, bad_loss),
        *(second_start, divergence, flipped_bit, large_document),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill a run of one process (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS), help=", ".join(ROWS))
    arguments = parser.parse_args()
    telemetry.quiet_libraries()
    failed = False
    print("| tried | happened | seconds |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.kills, arguments.seed)
        try:
            for name in arguments.rows:
                began = time.monotonic()
                try:
                    happened = ROWS[name](bench)
                except Skipped as why:
                    happened = f"skipped: {why}"
                except Fault as fault:
                    failed, happened = True, f"**failed**: {fault}"
                tried = (ROWS[name].__doc__ or name).strip()
                print(f"| {tried} | {happened} | {time.monotonic() - began:.0f} |", flush=True)
        finally:
            bench.end_processes()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
