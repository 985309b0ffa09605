"""What of a request only the engine can tell to be wrong: token ids that the model does not have."""

from core.errors import RequestError
from core.types import Request


def check_tokens(request: Request, vocab_size: int) -> None:
    """Raise RequestError if a token id of the request is not in the vocabulary."""
    sampling = request.sampling
    biased = tuple(token for token, _ in sampling.logit_bias)
    if len(set(biased)) < len(biased):
        raise RequestError("a token id has two biases", param="logit_bias")
    prompt = (*request.prompt_ids, *request.output_ids)
    for param, ids in (("prompt", prompt), ("logit_bias", biased), ("stop_token_ids", sampling.stop_token_ids)):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            raise RequestError(
                f"token ids must lie in 0..{vocab_size - 1}, got {min(ids) if min(ids) < 0 else max(ids)}", param=param
            )
