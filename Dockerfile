# Anneal on the CPU, from the same lock as `make setup`: docker build -t anneal .
#   docker run --rm -v "$PWD/runs:/anneal/runs" anneal run all --recipe recipes/miniature.yaml
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash build-essential git libnuma1 make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /anneal
COPY . .
RUN FLAVOUR=cpu PYTHON=python3.11 scripts/setup.sh
ENV OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
ENTRYPOINT [".venv/bin/anneal"]
CMD ["--help"]
