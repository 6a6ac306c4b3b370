"""vLLM's two model runners: each step's rows reach the model before it computes them.

Both keep the flat batch of a step: row i holds the tokens [query_start_loc[i],
query_start_loc[i + 1]), of which the first has the position num_computed_tokens[i]. The V1 runner
calls its model by a method that is there to be overridden. The V2 runner asks the model for a
ModelState, whose `prepare_inputs` runs before every step, outside compiled code and CUDA graphs.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vllm_seka.steps import Row

if TYPE_CHECKING:
    from vllm_seka.models import Steered


def install() -> None:
    """Make both runners tell the model of every step. Installing again does nothing."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as RunnerV2
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as RunnerV1

    for runner in (RunnerV1, RunnerV2):
        if not hasattr(runner.execute_model, "_seka"):
            runner.execute_model = _watched(runner.execute_model)
    if not hasattr(RunnerV1._model_forward, "_seka"):
        RunnerV1._model_forward = _told(RunnerV1._model_forward)


def _watched(plain: Any) -> Any:
    """Return `execute_model` with the model's steps begun and ended around it."""

    @functools.wraps(plain)
    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        model = _steered(self.get_model())
        if model is None:
            return plain(self, scheduler_output, *args, **kwargs)
        model.seka.begin(scheduler_output)
        try:
            output = plain(self, scheduler_output, *args, **kwargs)
        except BaseException:
            model.seka.abandon()
            raise
        model.seka.end()
        return output

    execute_model._seka = True  # type: ignore[attr-defined]
    return execute_model


def _told(plain: Any) -> Any:
    """Return the V1 runner's `_model_forward`, which first tells the model of its rows."""

    @functools.wraps(plain)
    def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = _steered(self.get_model())
        if model is not None:
            batch = self.input_batch
            model.seka.place(
                _rows(
                    batch.req_ids[: batch.num_reqs],
                    self.query_start_loc.np,
                    batch.num_computed_tokens_cpu,
                )
            )
        return plain(self, *args, **kwargs)

    model_forward._seka = True  # type: ignore[attr-defined]
    return model_forward


def model_state() -> type:
    """Return the V2 runner's state of a steered model."""
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    class SteeredModelState(DefaultModelState):  # type: ignore[misc, unused-ignore]
        """The default state, which first tells the model of its rows."""

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            self.model.seka.place(
                _rows(
                    input_batch.req_ids,
                    input_batch.query_start_loc_np,
                    input_batch.num_computed_tokens_np,
                )
            )
            return super().prepare_inputs(input_batch, req_states)

    return SteeredModelState


def _rows(req_ids: Sequence[str], starts: Any, computed: Any) -> Iterator[Row]:
    for i, request_id in enumerate(req_ids):
        start = int(starts[i])
        yield Row(request_id, start, int(computed[i]), int(starts[i + 1]) - start)


def _steered(model: Any) -> "Steered | None":
    """Return the model if it is a steered one."""
    found: Steered | None = model if getattr(model, "seka", None) is not None else None
    return found
