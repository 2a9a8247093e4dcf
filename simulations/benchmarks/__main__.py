"""python -m simulations.benchmarks: each measurement is a subcommand that prints JSON, and its progress as errors go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.console import out as progress
from common.console import run_cli
from common.study import load_study

say = typer.echo
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
StudyFile = Annotated[Path, typer.Argument(help="The study file.")]
Sites = Annotated[Path, typer.Option(help="Folder of site folders.")]
Out = Annotated[Path, typer.Option(help="Folder for the runs.")]


@app.command()
def model_case(
    study: StudyFile, sites: Sites, out: Out, seeds: Annotated[str, typer.Option(help="Seeds.")] = "0,1,2"
) -> None:
    """Federated beside central and local training, over several seeds."""
    from simulations.benchmarks.model_case import measure

    found = measure(load_study(study), sites, out, [int(s) for s in seeds.split(",")], base=study.parent)
    say(json.dumps(found, indent=1))


@app.command()
def private_case(
    study: StudyFile,
    sites: Sites,
    out: Out,
    seeds: Annotated[str, typer.Option(help="Seeds.")] = "0,1,2,3,4",
    rate_without: Annotated[float | None, typer.Option(help="Learning rate without privacy.")] = None,
) -> None:
    """A private study beside the same without privacy, and beside each hospital alone."""
    from simulations.benchmarks.private_case import measure

    numbers = [int(s) for s in seeds.split(",")]
    say(json.dumps(measure(load_study(study), sites, out, numbers, base=study.parent, rate=rate_without), indent=1))


@app.command()
def private_epsilon(
    study: StudyFile,
    sites: Sites,
    out: Out,
    epsilons: Annotated[str, typer.Option(help="Epsilons.")] = "1,2,4,8",
    seeds: Annotated[str, typer.Option(help="Seeds.")] = "0,1,2",
) -> None:
    """A private study over epsilon, beside each hospital alone."""
    from simulations.benchmarks.private_case import measure_each, over_epsilon

    studies = over_epsilon(load_study(study), [float(e) for e in epsilons.split(",")])
    say(json.dumps(measure_each(studies, sites, out, [int(s) for s in seeds.split(",")], base=study.parent), indent=1))


@app.command()
def private_trainable(
    study: StudyFile,
    sites: Sites,
    out: Out,
    rates: Annotated[str, typer.Option(help="Learning rate of each part.")],
    seeds: Annotated[str, typer.Option(help="Seeds.")] = "0",
) -> None:
    """A private study over what is trained (--rates head=20,norm+head=2,all=1), beside each hospital alone."""
    from simulations.benchmarks.private_case import measure_each, over_trainable

    pairs = (part.split("=") for part in rates.split(","))
    studies = over_trainable(load_study(study), {name: float(rate) for name, rate in pairs})
    say(json.dumps(measure_each(studies, sites, out, [int(s) for s in seeds.split(",")], base=study.parent), indent=1))


@app.command()
def private_curves(
    epsilon: Annotated[Path, typer.Option(help="What private-epsilon printed.")],
    trainable: Annotated[Path, typer.Option(help="What private-trainable printed.")],
    out: Annotated[Path, typer.Option(help="The picture, PNG.")],
) -> None:
    """A picture of a private study over epsilon and over what is trained."""
    from simulations.benchmarks.private_curves import draw

    draw(epsilon, trainable, out)


@app.command()
def many_sites(study: StudyFile, sites: Sites, out: Out) -> None:
    """Peak memory and round time of a run over all the sites."""
    from simulations.benchmarks.many_sites import measure

    say(json.dumps(measure(load_study(study), sites, out, base=study.parent), indent=1))


@app.command()
def coordinator_memory(
    study: StudyFile,
    sites: Annotated[str, typer.Option(help="Numbers of sites.")] = "10,100",
    flower: Annotated[
        bool, typer.Option("--flower", help="Flower's own FedAvg instead of the study's strategy.")
    ] = False,
    strategy: Annotated[str, typer.Option(help="In place of the study's.")] = "",
) -> None:
    """Peak memory of the coordinator's process in a round, in messages above its base."""
    from simulations.benchmarks.coordinator_memory import measure

    numbers = [int(s) for s in sites.split(",")]
    say(json.dumps(measure(load_study(study), numbers, flower=flower, strategy=strategy), indent=1))


@app.command()
def round_cost(
    arch: Annotated[str, typer.Option(help="The network's name in a study file.")] = "resnet50",
    sites: Annotated[int, typer.Option(help="Sites on this machine.")] = 10,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; the first is not counted.")] = 4,
) -> None:
    """Time of a deployed round with trivial training, over moving its bytes through TLS once down and once up."""
    from simulations.benchmarks.round_cost import measure

    say(json.dumps(measure(arch, sites, rounds), indent=1))


@app.command()
def ingest(
    study: StudyFile, out: Out, slices: Annotated[int, typer.Option(help="Slices of each transfer syntax.")] = 2000
) -> None:
    """Ingest against pydicom reading and decoding the same files."""
    from simulations.benchmarks.ingest import measure

    say(json.dumps(measure(load_study(study), slices, out), indent=1))


@app.command()
def dp_step(
    arch: Annotated[str, typer.Option(help="The network's name in a study file.")] = "resnet18",
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    batch: Annotated[int, typer.Option(help="Patients in a step, one image each.")] = 32,
    repeats: Annotated[int, typer.Option(help="Steps of each method.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads of each method.")] = 2,
    opacus: Annotated[bool, typer.Option(help="Measure Opacus too, which takes the longest.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Time and memory of a private step, over a plain one and over Opacus."""
    from simulations.benchmarks.dp_step import measure

    say(json.dumps(measure(arch, size, batch, repeats, threads, opacus=opacus), indent=None if as_json else 1))


@app.command()
def pages(
    sites: Annotated[int, typer.Option(help="Sites.")] = 100, rounds: Annotated[int, typer.Option(help="Rounds.")] = 500
) -> None:
    """Milliseconds for each place of the coordinator's page, bytes, and its live updates."""
    from simulations.benchmarks.pages import measure

    say(json.dumps(measure(sites, rounds), indent=1))


@app.command()
def pages_browser(
    sites: Annotated[int, typer.Option(help="Sites.")] = 100, rounds: Annotated[int, typer.Option(help="Rounds.")] = 500
) -> None:
    """Long tasks and frames of the coordinator's page in Chromium, while it loads, is scrolled, and follows a round."""
    from simulations.benchmarks.pages_browser import measure

    say(json.dumps(measure(sites, rounds), indent=1))


@app.command()
def attention(
    study: StudyFile,
    sites: Annotated[Path, typer.Option(help="Folder that 'fedct-sim phantom' wrote.")],
    model: Annotated[Path, typer.Option(help="The model.safetensors of a run over them.")],
) -> None:
    """How much of what a model looks at lies on the fractured vertebra."""
    from simulations.benchmarks.attention import measure

    say(json.dumps(measure(load_study(study), sites, model), indent=1))


@app.command()
def site_page(
    rows: Annotated[int, typer.Option(help="Rows of the ledger.")] = 5000,
    lines: Annotated[int, typer.Option(help="Lines of the audit log.")] = 50_000,
    repeats: Annotated[int, typer.Option(help="Looks at each page after the first.")] = 20,
) -> None:
    """Time of each page of a site with a long past, on the server's side."""
    from simulations.benchmarks.site_page import measure

    say(json.dumps(measure(rows, lines, repeats), indent=1))


if __name__ == "__main__":
    progress.stderr = True  # so that what is measured stands alone in the output
    run_cli(app, "python -m simulations.benchmarks")
