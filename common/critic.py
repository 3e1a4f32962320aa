"""A value model: the policy's own passes, and one number for each token instead of a distribution.

    critic = policy.twin(ValueModel, learning_rate=5e-4)     # its trunk starts as the policy's, its head at 0
    (values,) = critic.score(batch)                          # (B, T), no graph
    critic.backward(batch, grad_values)
    critic.step()

[b, t] of the values is what the critic expects before response token t of row b has been drawn: V(s_t), from the
hidden state that predicts it. A critic is saved and resumed as any further model of a run (`extra`).
"""

import torch
from torch import Tensor, nn

from common.passes import Pass, TokenModel


class ValueModel(TokenModel):
    """A causal LM's trunk with a linear head of width 1."""

    outputs = 1

    def __init__(self, model, dtype):
        super().__init__(model, dtype)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if head.weight is not embedding.weight:
            head.requires_grad_(False)  # unused
        self.value = nn.Linear(head.in_features, 1, device=head.weight.device, dtype=head.weight.dtype)

    def forward(self, part: Pass, how: tuple, hidden=None, gradients=None, also=()) -> tuple[Tensor] | Tensor:
        """The values (N,) of a pass, in float32 at least; given the gradient of a loss by them, a scalar to call
        `backward` on."""
        hidden = self.hidden(part) if hidden is None else hidden
        # Factors in the passes' dtype, as ranks gather them; the sum over the width in float32 at least.
        exact = torch.promote_types(self.dtype, torch.float32)
        weight, bias = (p.to(self.dtype).to(exact) for p in (self.value.weight, self.value.bias))
        values = nn.functional.linear(hidden.to(exact), weight, bias)[:, 0]
        return (values,) if gradients is None else (values * gradients[0]).sum()
