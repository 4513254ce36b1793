"""The text of a report, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhive.report.figures import (
    LABELS,
    improvement_figure,
    profile_figure,
    reached_figure,
    runs_figure,
    seeds_figure,
)
from rlhive.report.html import document, grid, heading, image, listing, note, section, table
from rlhive.report.results import Improvement, Process, Results, improvements, shared_step, step_names
from rlhive.report.statistics import RESAMPLES, steps_to_threshold
from rlhive.report.text import (
    chance_text,
    count_text,
    encoder_text,
    list_text,
    score_text,
    score_with_interval,
    seconds_text,
    steps_text,
)
from rlhive.runs.gin_text import SEED_SETTINGS, settings
from rlhive.runs.run_files import EVALUATION_SEED, TARGET_MET

THRESHOLDS = (0.5, 0.9)
INTERVAL = f"95 % stratified bootstrap interval ({RESAMPLES:,} resamples)"
NOT_RECORDED, NOT_REACHED, STOPPED_BEFORE = "not recorded", "not reached", "stopped before"


def page(runs: Sequence[Results], picture: bytes | str) -> str:
    """The whole page as HTML.

    Args:
        runs: one, or several of one environment that share a step at which every seed was evaluated.
        picture: a PNG of the environment, or the reason why there is none.
    """
    first = runs[0]
    about = "; ".join(
        f"{run.label}: {run.spec['algorithm']}, {count_text(run)}{encoder_text(run)}" for run in runs
    )
    body = [heading(first.environment, about), _summary(runs), _curves(runs)]
    if len(runs) > 1:
        body.append(_comparison(runs))
    body += [_seeds(runs), _usage(runs), _environment(first, picture), _seen(runs)]
    body += [_episodes(runs), _configuration(runs)]
    return document(f"{first.environment}: {', '.join(run.label for run in runs)}", body)


def _summary(runs: Sequence[Results]) -> str:
    """A column for each run: its scores at one step, and how soon its seeds succeed."""
    names = ["seeds", "at step"]
    names += [f"{label}, {what}" for label in LABELS.values() for what in ("IQM", "median")]
    for threshold in THRESHOLDS:
        names += [f"steps to {threshold:.0%} success, median", f"seeds that reached {threshold:.0%}"]
    columns = [_summary_of(run, shared_step(runs) if len(runs) > 1 else _last_step(run)) for run in runs]
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    text = f"IQM: interquartile mean over the run's seeds; in brackets its {INTERVAL} over those seeds. "
    text += "Median steps: a seed that never got there counts as slower than all that did."
    if any(1 < len(run.seeds) < 4 for run in runs):
        text += " With fewer than 4 seeds the IQM leaves out none of them, so it is their mean."
    if any(len(run.seeds) == 1 for run in runs):
        text += " A single seed has no interval over seeds: how much seeds differ is unknown."
    return section("Summary", table(["", *(run.label for run in runs)], rows), note(text))


def _summary_of(run: Results, step: int | None) -> list[str]:
    """The run's column; without scores if no step has them for every seed."""
    cells = [list_text(run.seeds.tolist()), "none has every seed" if step is None else f"{step:,}"]
    for name in LABELS:
        if step is None:
            cells += ["-", "-"]
            continue
        value, low, high = (float(part[run.steps == step][0]) for part in run.iqm(name))
        cells.append(score_with_interval(name, value, low, high))
        cells.append(score_text(name, float(np.median(run.at(name, step)))))
    for threshold in THRESHOLDS:
        reached = steps_to_threshold(run.steps, run.scores["success"], threshold)
        ended = np.isinf(reached) & [_not_reached(run, seed) == STOPPED_BEFORE for seed in run.seeds]
        # The seeds that stopped might have decided the median.
        open_end = np.isfinite(np.median(np.where(ended, 0.0, reached)))
        cells.append(steps_text(float(np.median(reached)), STOPPED_BEFORE if open_end else NOT_REACHED))
        before = f", {ended.sum()} {STOPPED_BEFORE}" if ended.any() else ""
        cells.append(f"{np.isfinite(reached).sum()} of {len(reached)}{before}")
    return cells


def _not_reached(run: Results, seed: int) -> str:
    """The text for a success rate that a seed never had; one that met its target stopped, so it had no chance to."""
    return STOPPED_BEFORE if run.stopped.get(seed, (0, ""))[1] == TARGET_MET else NOT_REACHED


def _curves(runs: Sequence[Results]) -> str:
    figures = [
        _figure(seeds_figure(run, runs, name), f"{run.label}: {LABELS[name]} over steps. {_curve_note(run)}")
        for run in runs
        for name in LABELS
    ]
    return section("Learning curves", grid(figures))


def _curve_note(run: Results) -> str:
    if len(run.seeds) == 1:
        return f"Only seed {run.seeds[0]}, so there is no interval over seeds."
    text = f"Thin: each seed. Black: IQM with its {INTERVAL} over {count_text(run)}. Dashed: median."
    if len(run.complete) < len(run.steps):
        text += f" Only {len(run.complete)} of {len(run.steps)} evaluated steps have every seed, and therefore an IQM."
    return text


def _comparison(runs: Sequence[Results]) -> str:
    step = shared_step(runs)
    at = f"at step {step:,}, the last one with evaluations of every seed of every run"
    band = f"Bands: {INTERVAL} over each run's seeds"
    band += "; none for a single seed." if any(len(run.seeds) == 1 for run in runs) else "."
    figures = [
        _figure(runs_figure(runs, name), f"IQM of {LABELS[name]} over steps. {band}") for name in LABELS
    ]
    for name, label in LABELS.items():
        caption = f"Performance profile {at}: fraction of seeds with a {label} above the threshold. {band}"
        figures.append(_figure(profile_figure(runs, name, step), caption))
    pairs = {name: improvements(runs, name, step) for name in LABELS}
    for name, label in LABELS.items():
        caption = (
            f"Probability of improvement {at}: how often a seed of the first run has a higher {label} than one of "
            f"the second; ties count half. Bars: {INTERVAL} over the seeds of both."
        )
        figures.append(_figure(improvement_figure(pairs[name], name), caption))
    for threshold in THRESHOLDS:
        caption = f"Samples to {threshold:.0%}: fraction of seeds that have reached this success rate in an evaluation."
        figures.append(_figure(reached_figure(runs, threshold), caption))
    return section("Comparison", grid(figures), _improvement_table(pairs, step), _difference_table(runs))


def _improvement_table(pairs: Mapping[str, Sequence[Improvement]], step: int) -> str:
    rows = [
        [f"{of[0][0].label} over {of[0][1].label}", *(chance_text(chance) for _, _, chance in of)]
        for of in zip(*pairs.values(), strict=True)
    ]
    caption = f"Probability of improvement at step {step:,}; in brackets its {INTERVAL} over the seeds of both runs."
    return table(["pair", *(f"higher {label}" for label in LABELS.values())], rows, caption)


def _difference_table(runs: Sequence[Results]) -> str:
    found = [settings(run.config) for run in runs]
    # Without the seeds, which the summary lists: of solo runs only the first one's settings are known here.
    either = set().union(*found) - SEED_SETTINGS
    names = sorted(name for name in either if len({of.get(name) for of in found}) > 1)
    if not names:
        return note("The runs have the same settings.")
    rows = [[name, *(of.get(name, "-") for of in found)] for name in names]
    return table(["setting", *(run.label for run in runs)], rows, "Settings that differ.")


def _seeds(runs: Sequence[Results]) -> str:
    head = ["seed", "last step", *(f"final {label}" for label in LABELS.values())]
    head += [f"steps to {threshold:.0%}" for threshold in THRESHOLDS]
    tables = [
        table(
            [*head, *(["stopped"] if run.stopped else []), "wall time"],
            _seed_rows(run),
            f"{run.label}, each seed's last evaluation",
        )
        for run in runs
    ]
    text = (
        f"Steps to a success rate: {step_names(runs)} of the first evaluation that reached it. "
        "Wall time: from the start of the run to the seed's last row; seeds trained side by side share it."
    )
    return section("Seeds", grid(tables, wide=True), note(text))


def _seed_rows(run: Results) -> list[list[str]]:
    reached = [steps_to_threshold(run.steps, run.scores["success"], threshold) for threshold in THRESHOLDS]
    rows = []
    for index, seed in enumerate(run.seeds):
        evaluated = np.flatnonzero(np.isfinite([of[index] for of in run.scores.values()]).any(axis=0))
        cells = ["never", *("-" for _ in LABELS)]
        if len(evaluated):
            last = evaluated[-1]
            cells = [
                f"{run.steps[last]:,}",
                *(score_text(name, run.scores[name][index, last]) for name in LABELS),
            ]
        cells += [steps_text(of[index], _not_reached(run, seed)) for of in reached]
        if run.stopped:
            cells.append("at step {:,}: {}".format(*run.stopped[seed]) if seed in run.stopped else "-")
        last_row = run.wall_time[index]
        rows.append([str(seed), *cells, seconds_text(last_row) if np.isfinite(last_row) else NOT_RECORDED])
    return rows


def _usage(runs: Sequence[Results]) -> str:
    head = ["process", "seeds", "time", step_names(runs), "steps per second", "peak memory", "on the GPU"]
    rows = [_usage_row(run, process) for run in runs for process in run.processes]
    if not any(process.gpu_peak_memory_bytes for run in runs for process in run.processes):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return section(
        "Time and memory", table(head, rows), note("For each training process, from its usage.json.")
    )


def _usage_row(run: Results, process: Process) -> list[str]:
    seconds, steps = process.seconds, process.steps
    return [
        run.label if len(run.processes) == 1 else f"{run.label}/{process.name}",
        list_text(process.seeds),
        NOT_RECORDED if seconds is None else seconds_text(seconds),
        NOT_RECORDED if steps is None else f"{steps:,}",
        f"{steps / seconds:,.1f}" if seconds and steps else NOT_RECORDED,
        *(
            NOT_RECORDED if memory is None else f"{memory / 2**20:,.0f} MiB"
            for memory in (process.peak_memory_bytes, process.gpu_peak_memory_bytes)
        ),
    ]


def _environment(run: Results, picture: bytes | str) -> str:
    env = run.spec["env"]
    limit = env.get("max_episode_steps")
    facts = (
        f"{run.environment}: {env['observation_dim']} observations, {env['action_dim']} actions, "
        f"{env['dt']:g} s per step, {f'{limit} steps per episode' if limit else 'no time limit'}."
    )
    if pixels := env.get("pixels"):
        facts += (
            f" Images of {', '.join(pixels['cameras']) or 'no camera'}, {pixels['height']}x{pixels['width']}, "
            f"{pixels['quality']} quality{encoder_text(run)}."
        )
    if isinstance(picture, str):
        return section("Environment", note(f"{facts} There is no picture of it: {picture}"))
    return section("Environment", image("image/png", picture, f"{facts} Seen from the model's first camera."))


def _seen(runs: Sequence[Results]) -> str:
    """The images that the policies saw, for the runs that have images."""
    figures = [
        image(
            "image/png",
            run.seen,
            f"{run.label}: what the policy of the first seed in training saw in the last evaluation's first episode, "
            f"from left to right{encoder_text(run)}. Cameras from top to bottom: "
            f"{', '.join(run.spec['env']['pixels']['cameras'])}.",
        )
        for run in runs
        if run.seen is not None
    ]
    return section("What the policy saw", grid(figures)) if figures else ""


def _episodes(runs: Sequence[Results]) -> str:
    counts = [settings(run.config).get("train.evaluation_episodes", NOT_RECORDED) for run in runs]
    number = "; ".join(f"{run.label}: {count}" for run, count in zip(runs, counts, strict=True))
    return section(
        "Episodes",
        note(
            "All figures are from the evaluations during training, with the deterministic policy. Every evaluation "
            f"plays the same episodes, those of evaluation seed {EVALUATION_SEED}, whatever the training seed; "
            f"training never plays them. Episodes of each evaluation: {number}. An episode is a success when it is "
            "solved on more than 5 of its steps. A seed or a checkpoint chosen by these figures should be judged on "
            "other episodes, as python -m rlhive.evaluate does."
        ),
    )


def _configuration(runs: Sequence[Results]) -> str:
    texts = []
    for run in runs:
        about = ", ".join(f"{name} {version}" for name, version in run.spec.get("versions", {}).items())
        if source := run.spec.get("dataset"):
            about += (
                f"; data set {source['path']}, sha256 {source['sha256']}: {source['trials']} trials, "
                f"{source['steps']} steps. Left out: {'; '.join(source['left_out']) or 'nothing'}"
            )
        texts.append(listing(run.label, f"{run.path}: {about}", run.config))
    return section("Configuration", grid(texts))


def _last_step(run: Results) -> int | None:
    return int(run.complete[-1]) if len(run.complete) else None


def _figure(svg: str, caption: str) -> str:
    return image("image/svg+xml", svg.encode(), caption)
