"""Signatures against datatrove's, interleaved, in CPU time of one process (docs/data.md).

    python -m venv /tmp/peer && /tmp/peer/bin/pip install "datatrove[processing]==0.10.1" spacy
    python benchmarks/against_datatrove.py data/debian /tmp/peer/bin/python

Both sign the same pages' text with their defaults: runs of five words; datatrove 14 x 8 hashes and spaCy's English
words, ours 20 x 6. datatrove wants other versions of packages than we do, so it has an environment of its own;
without one, this prints so and ends.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_stages import texts_of

from data_mix.duplicates.signature import Signer

ROUNDS, PAGES = 3, 150
PEER = """
import json, sys, time
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
texts = json.load(open(sys.argv[1]))
step = MinhashDedupSignature(sys.argv[2], config=MinhashConfig(), language="eng")
step.get_signature(step.get_shingles("some words to load the language with"))
began = time.process_time()
for text in texts:
    step.get_signature(step.get_shingles(text))
print(time.process_time() - began)
"""


def ours(texts: list[str]) -> float:
    """CPU seconds of our signatures."""
    signer = Signer(120)
    signer.signature("some words")
    began = time.process_time()
    for text in texts:
        signer.signature(text)
    return time.process_time() - began


def main() -> None:
    """Measure both in turn."""
    folder, python = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "python"
    found = subprocess.run([python, "-c", "import datatrove"], capture_output=True, check=False)
    if found.returncode:
        print(f"{python} has no datatrove; nothing is measured")
        return
    texts = texts_of(folder, PAGES)
    size = sum(map(len, texts)) / 1e6
    with tempfile.TemporaryDirectory() as place:
        given = Path(place) / "texts.json"
        given.write_text(json.dumps(texts))
        command = [python, "-c", PEER, str(given), place]
        for number in range(ROUNDS):
            own = ours(texts)
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peer = float(done.stdout.split()[-1])
            print(
                f"round {number + 1}: {len(texts)} texts, {size:.1f} MB: ours {size / own:.2f} MB/s, "
                f"datatrove {size / peer:.2f} MB/s: {peer / own:.1f} times"
            )


if __name__ == "__main__":
    main()
