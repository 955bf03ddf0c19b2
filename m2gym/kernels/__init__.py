"""Triton kernels for M2-shaped mixtures of experts, trained and served, and torch references.

The room imports nothing of ours, and importing it imports neither torch nor triton: take the
module that is needed.

- ``reference``: plain torch, any dtype: what every kernel is checked against.
- ``router``: sigmoid, bias, top-k, renormalisation, sort by expert and offsets, without a host
  synchronisation.
- ``experts``: the whole mixture (permute, grouped product with SwiGLU, grouped product, weighted
  combine) with its backward.
- ``logprobs``: token log-probabilities, entropy and the policy loss, the gradient taken in the
  forward, so that logits are never kept.
- ``tree_attention``: attention over a tree of token runs, as few rectangles as possible.
- ``fp8``: operands of the experts' forward in 8 bits.
- ``norm``, ``rotary``: RMSNorm in one pass each way; with partial rotary embedding.
- ``register``: the same under transformers' registries.
- ``bench``: checks against float64 and times everything beside its peers.

Kernels run on NVIDIA GPUs, and on a CPU under Triton's interpreter when ``TRITON_INTERPRET=1`` is
set before triton is first imported. What they cannot do they refuse with a ``KernelRefusal``;
they never fall back in silence.
"""
