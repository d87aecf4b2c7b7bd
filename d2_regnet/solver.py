"""Optimization as the recipes need it: whole-model gradient clipping."""

import torch


def clip_gradients(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> torch.utils.hooks.RemovableHandle:
    """Makes every `optimizer.step()` clip the norm of all its gradients taken together.

    As `torch.nn.utils.clip_grad_norm_` over the whole model (MMDetection's `clip_grad`; Detectron2
    clips each parameter for itself). Right under AMP too: the scaler removes its scale before the
    step.

    Args:
        optimizer: any torch optimizer.
        max_norm: the largest norm that is left as it is, > 0.
        norm_type: the p of the p-norm, > 0; may be inf.

    Returns:
        A handle whose `remove()` ends the clipping.

    Raises:
        ValueError: a norm that is not positive.
    """
    if not max_norm > 0 or not norm_type > 0:
        raise ValueError(
            f"clip_grad needs positive max_norm and norm_type: {max_norm}, {norm_type}"
        )

    def clip(optimizer, args, kwargs):
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    return optimizer.register_step_pre_hook(clip)
