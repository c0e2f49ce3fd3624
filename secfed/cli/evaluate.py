"""`secfed eval`: an adapter's task metric on rows that the user names as public."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["evaluate"]

ModelsDirectory = Annotated[
    Path, typer.Option("--models", help="Folder with base models, as the set-up command prepared it.")
]
DEFAULT_MODELS = Path("~/.cache/secfed")


def evaluate(
    adapter: Annotated[Path, typer.Option("--adapter", help="A round's folder.")],
    data: Annotated[Path, typer.Option("--data", help="Public rows: .jsonl, .csv or .parquet.")],
    models: ModelsDirectory = DEFAULT_MODELS,
    text: Annotated[str, typer.Option("--text", help="Column of the text (classify).")] = "text",
    label: Annotated[
        str, typer.Option("--label", help="Column of the label (classify), or of the thumb (kto).")
    ] = "label",
    messages: Annotated[
        str, typer.Option("--messages", help="Column of the conversation (sft).")
    ] = "messages",
    prompt: Annotated[str, typer.Option("--prompt", help="Column of the prompt (sft, dpo, kto).")] = "prompt",
    completion: Annotated[
        str, typer.Option("--completion", help="Column of the completion (sft, kto).")
    ] = "completion",
    chosen: Annotated[str, typer.Option("--chosen", help="Column of the chosen response (dpo).")] = "chosen",
    rejected: Annotated[
        str, typer.Option("--rejected", help="Column of the rejected response (dpo).")
    ] = "rejected",
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Longest row in tokens.")] = 128,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure an adapter on public rows. Never name private rows here: the figure would be a release."""
    import json
    import tempfile

    from secfed.aggregation import folder
    from secfed.cli.inputs import load_rows
    from secfed.training.models import model_folder
    from secfed.training.rows import FORMATS

    spec, _ = folder.read(adapter)
    columns = {
        "text": text,
        "label": label,
        "messages": messages,
        "prompt": prompt,
        "completion": completion,
        "chosen": chosen,
        "rejected": rejected,
    }
    with tempfile.TemporaryDirectory() as scratch:
        table = load_rows(
            data,
            FORMATS[spec.trainer],
            scratch=Path(scratch),
            remedy="Mend the file, or name its columns by the options of `secfed eval`.",
            columns=columns,
        )
    base = model_folder(models.expanduser(), spec.base_model)

    from secfed.training.evaluate import evaluate_folder  # seconds, and what is missing is told before

    metric = evaluate_folder(adapter, base, table, max_length=max_length, device=device)
    if as_json:
        document = {
            "kind": "metric",
            "schema": 1,
            "metric": metric.name,
            "value": metric.value,
            "rows": metric.rows,
            "perplexity": metric.perplexity,
        }
        typer.echo(json.dumps(document))
        return
    extra = f"  (perplexity {metric.perplexity:.2f})" if metric.perplexity is not None else ""
    typer.echo(f"{metric.name} {metric.value:.4f}{extra} on {metric.rows} public rows")
