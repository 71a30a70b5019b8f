"""A reward of one's own: what is right, and above all what is short. Used by recipes/own-reward.yaml."""


def score(prompt, reply, reference, *, most_words=20):
    """1 for an answer of one word, falling to 0 at `most_words`; the trace may be as long as it likes."""
    words = len(reply.answer.split())
    return max(0.0, 1.0 - (words - 1) / (most_words - 1)) if words else 0.0
