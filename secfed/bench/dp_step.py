"""What a DP-SGD step costs beside a step without privacy and beside plain Opacus hooks, in one run.

Six kinds of steps on the same batch, each cut as that kind needs it:

- `plain`: PEFT's layers, the mean gradient, one step of SGD; pieces of so many records, by length;
- `plain, own layers`: the same with the layers of `training.lora_gradients`;
- `plain, DP's pieces`: the plain step in the pieces of `DP-SGD`, whose padding it so pays as well: what is
  left of that step's cost is what privacy takes beside its pieces;
- `Opacus`: PEFT's layers, `GradSampleHooks` and `DPOptimizer` as they come; the plain step's pieces;
- `DP-SGD`: what a site runs in a round of many records, with units, float64 sums, noise from a secret stream
  and the grid; pieces of fixed shapes, so that rounding couples no records (`training.pieces`);
- `DP-SGD, one by one`: the same where no piece can be shared: each record by itself, without padding.

The models: Llama's architecture with random weights, hidden size 256, 4 layers, 128 tokens a row,
LoRA r = 8 on q_proj and v_proj; and MiniLM from the cache, movie sentences as a batch draws them.
A and B are trained. One thread; the kinds take turns and the medians of processor seconds count, so a
busy machine changes the times and hardly the ratios.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.spec import AdapterSpec
from secfed.bench.meter import Parts, Reading, Target
from secfed.crypto.labels import Label
from secfed.training import dpsgd
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.assets import MINILM_ID
from secfed.training.models import model_folder
from secfed.training.pieces import RUNGS, Ladder, micro_batches, pieces
from secfed.training.random import Stream
from secfed.training.sft import Completions
from secfed.training.task import IGNORED, Example, Task

__all__ = ["Steps", "measure", "settings"]

_NOISE, _CLIP, _RATE = 0.75, 1.0, 1e-3
_SEED = bytes(range(32))
_TOKENS, _VOCABULARY = 128, 2048

Step = Callable[[], None]

_PARTS: dict[str, tuple[Target, ...]] = {
    "backward": ((torch.autograd, "backward"),),
    "clipping and sums": ((dpsgd.ClippingOptimizer, "clip_and_accumulate"),),
    "noise": ((dpsgd.SecretNoiseOptimizer, "add_noise"),),
}
"""What a private step does otherwise than a plain one, or beside it."""

_PROFILED = 3
"""Turns of both steps."""


@dataclass(frozen=True)
class BatchSetting:
    """A model and one logical batch, every record a unit."""

    name: str
    make: Callable[[], AdapterModel]
    task: Task
    examples: Sequence[Example]

    @property
    def units(self) -> list[tuple[int]]:
        """Each record by itself."""
        return [(record,) for record in range(len(self.examples))]


@dataclass(frozen=True, slots=True)
class Steps:
    """What a step of each kind takes, and DP-SGD's as a multiple of the others'.

    Attributes:
        median_s: Processor seconds by kind.
        each_to_plain: Median over the turns of each kind's time over the plain step's.
        to_plain: Of DP-SGD's over the plain step's; the others likewise.
        parts_to_plain: The plain step, and what each kind of work takes more in DP-SGD's, as multiples of the
            plain step; from turns that were profiled.
    """

    model: str
    batch: int
    median_s: dict[str, float]
    each_to_plain: dict[str, float]
    to_plain: float
    to_plain_own_layers: float
    to_plain_same_pieces: float
    to_opacus: float
    parts_to_plain: dict[str, float]


def settings(models: Path, scratch: Path, batch: int) -> Iterator[BatchSetting]:
    """The two models with a batch of this size.

    Args:
        models: The cache of models and data.
        scratch: A folder for a model with random weights, which is made once.

    Raises:
        ConfigError: The cache lacks the model.
    """
    yield _llama(scratch, batch)
    yield _minilm(models, batch)


def _llama(folder: Path, batch: int) -> BatchSetting:
    """A small Llama with random weights, as a folder that the package loads itself."""
    if not (folder / "config.json").exists():
        torch.manual_seed(1)
        config = transformers.LlamaConfig(
            vocab_size=_VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=_TOKENS,
        )  # fmt: skip
        transformers.utils.logging.disable_progress_bar()
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    spec = AdapterSpec("bench/llama", "main", "sft", ("q_proj", "v_proj"), 8, 16, ())
    rows = np.random.default_rng(1).integers(2, _VOCABULARY, (batch, _TOKENS)).tolist()
    examples = [Example(tuple(row), (*[IGNORED] * 16, *row[16:]), cut=0) for row in rows]
    task = Completions(SimpleNamespace(eos_token_id=1, chat_template=None), _TOKENS)
    name = f"Llama 256x4, {_TOKENS} tokens"
    return BatchSetting(name, lambda: build(spec, folder, device="cpu"), task, examples)


def _minilm(models: Path, batch: int) -> BatchSetting:
    """MiniLM with movie sentences."""
    folder = model_folder(models, MINILM_ID)
    spec = AdapterSpec(MINILM_ID, "main", "classify", ("query", "value"), 8, 8, ("negative", "positive"))
    task = task_of(spec, folder, 64)
    lines = (models / "data" / "movies.jsonl").read_text(encoding="utf-8").splitlines()[:batch]
    examples = [task.example(json.loads(line)) for line in lines]
    return BatchSetting("MiniLM, movie sentences", lambda: build(spec, folder, device="cpu"), task, examples)


# -- kinds of steps ----------------------------------------------------------------------------


def _pieces_of(setting: BatchSetting, size: int) -> list[list[Example]]:
    """So many records at a time, by length: what nobody's privacy hangs on is cut so that it costs least."""
    lengths = [len(example.tokens) for example in setting.examples]
    ordered = sorted(setting.units, key=lambda unit: lengths[unit[0]])
    return [
        [setting.examples[record] for record in piece.records]
        for piece in micro_batches(ordered, lengths, size)
    ]


def _loaded(setting: BatchSetting, stack: contextlib.ExitStack) -> tuple[AdapterModel, list[nn.Parameter]]:
    """A model of its own for each kind, its whole adapter trainable."""
    model = setting.make()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.parameters.items()}
    model.load(initial_adapter(shapes, _SEED))
    return model, list(stack.enter_context(model.trainable(list(shapes))).values())


def _as_peft_makes_them(module: nn.Module) -> None:
    """Put plain linear layers in the place of the package's own."""
    for layer in module.modules():
        if isinstance(layer, LoraLinear):
            for factors in (layer.lora_A, layer.lora_B):
                for name, factor in factors.items():
                    factors[name] = nn.Linear(factor.in_features, factor.out_features, bias=False)
                    factors[name].weight = factor.weight


def _plain_step(setting: BatchSetting, size: int, stack: contextlib.ExitStack, *, own: bool) -> Step:
    """No privacy: the mean gradient."""
    model, parameters = _loaded(setting, stack)
    if not own:
        _as_peft_makes_them(model.module)
    inner = torch.optim.SGD(parameters, lr=_RATE)
    pieces = _pieces_of(setting, size)

    def step() -> None:
        inner.zero_grad()
        for piece in pieces:
            losses = setting.task.losses(model.module, setting.task.collate(piece))
            torch.autograd.backward(losses.sum() / len(setting.examples))
        inner.step()

    return step


def _padded_step(setting: BatchSetting, size: int, stack: contextlib.ExitStack) -> Step:
    """No privacy, in the pieces of the private step."""
    model, parameters = _loaded(setting, stack)
    _as_peft_makes_them(model.module)
    inner = torch.optim.SGD(parameters, lr=_RATE / len(setting.examples))
    lengths = [len(example.tokens) for example in setting.examples]

    def step() -> None:
        inner.zero_grad()
        for piece in pieces(setting.units, lengths, Ladder(size)):
            records = [setting.examples[record] for record in piece.records]
            dpsgd.run_piece(model, setting.task, records, piece)
        inner.step()

    return step


def _opacus_step(setting: BatchSetting, size: int, stack: contextlib.ExitStack) -> Step:
    """Opacus' hooks and optimiser, nothing added."""
    model, parameters = _loaded(setting, stack)
    _as_peft_makes_them(model.module)
    for layer in model.module.modules():
        layer.train(any(parameter.requires_grad for parameter in layer.parameters(recurse=False)))
    hooks = GradSampleHooks(model.module, loss_reduction="sum")
    stack.callback(hooks.cleanup)
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, lr=_RATE),
        noise_multiplier=_NOISE,
        max_grad_norm=_CLIP,
        expected_batch_size=len(setting.examples),
        loss_reduction="sum",
    )
    pieces = _pieces_of(setting, size)

    def step() -> None:
        for number, piece in enumerate(pieces, start=1):
            losses = setting.task.losses(model.module, setting.task.collate(piece))
            torch.autograd.backward(losses.sum())
            optimizer.signal_skip_step(do_skip=number < len(pieces))
            optimizer.step()
            optimizer.zero_grad()

    return step


def _private_step(setting: BatchSetting, ladder: Ladder, stack: contextlib.ExitStack) -> Step:
    """What a site runs."""
    model, parameters = _loaded(setting, stack)
    stack.enter_context(dpsgd.per_record_gradients(model.module))
    optimizer = dpsgd.SecretNoiseOptimizer(
        torch.optim.SGD(parameters, lr=_RATE),
        noise_multiplier=_NOISE,
        clip=_CLIP,
        batch=len(setting.examples),
        noise=Stream(Label.STREAM_NOISE),
    )

    def step() -> None:
        optimizer.zero_grad()
        dpsgd.accumulate(model, setting.task, setting.examples, setting.units, optimizer, ladder)
        optimizer.step()

    return step


# -- the measurement ---------------------------------------------------------------------------


def measure(setting: BatchSetting, size: int, repeats: int) -> Steps:
    """Time all kinds in turns, after one turn that warms up.

    Args:
        size: Most records of a piece.
        repeats: Turns that count.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_thread())
        shared, single = Ladder(size), Ladder(size, alone=frozenset(RUNGS))
        kinds = {
            "plain": _plain_step(setting, size, stack, own=False),
            "plain, own layers": _plain_step(setting, size, stack, own=True),
            "plain, DP's pieces": _padded_step(setting, size, stack),
            "Opacus": _opacus_step(setting, size, stack),
            "DP-SGD": _private_step(setting, shared, stack),
            "DP-SGD, one by one": _private_step(setting, single, stack),
        }
        taken: dict[str, list[float]] = {name: [] for name in kinds}
        for repeat in range(repeats + 1):
            for name, step in kinds.items():
                begin = time.thread_time()
                step()
                if repeat:
                    taken[name].append(time.thread_time() - begin)
        parts = _parts_to_plain(kinds["plain"], kinds["DP-SGD"])
    return Steps(
        setting.name,
        len(setting.examples),
        {name: statistics.median(times) for name, times in taken.items()},
        {name: _ratio(taken, name, "plain") for name in kinds},
        _ratio(taken, "DP-SGD", "plain"),
        _ratio(taken, "DP-SGD", "plain, own layers"),
        _ratio(taken, "DP-SGD", "plain, DP's pieces"),
        _ratio(taken, "DP-SGD", "Opacus"),
        parts,
    )


def _parts_to_plain(plain: Step, private: Step) -> dict[str, float]:
    """What a private step consists of beside a plain one, as multiples of the plain one."""
    usual, own = Reading(), Reading()
    parts = Parts(_PARTS)
    parts.wrap()
    try:
        for _ in range(_PROFILED):
            for reading, step in ((usual, plain), (own, private)):
                begin = time.process_time()
                parts.enter_in(reading)
                step()
                parts.enter_in(None)
                reading.cpu_s += time.process_time() - begin
    finally:
        parts.unwrap()
    before = usual.parts_s()
    more = {name: seconds - before.get(name, 0.0) for name, seconds in own.parts_s().items()}
    return {"plain step": 1.0} | {name: seconds / usual.cpu_s for name, seconds in more.items()}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch, and none of Opacus' warnings about what is meant here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        warnings.filterwarnings("ignore", message="Secure RNG turned off")
        yield
    torch.set_num_threads(threads)


def _ratio(taken: dict[str, list[float]], one: str, other: str) -> float:
    """Median over the turns of one kind's time over another's: what slows a turn slows both."""
    turns = zip(taken[one], taken[other], strict=True)
    return statistics.median(own / its for own, its in turns)
