"""A policy of a few thousand weights with its tokenizer."""

import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.modeling import loading, tiny
from trimtab.trainer.steps import progress

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder_of_policy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An untrained policy on disk; pad is the end-of-sequence token, as in most chat models."""
    texts = [
        template.format(colour)
        for colour in making.COLOURS
        for template in (making.KIND, making.RUDE, "Which colour is the {} one?")
    ]
    tokenizer = tiny.train_bpe(texts * 3, 330)
    model = tiny.tiny_llama(len(tokenizer), seed=1, hidden=32, layers=2, heads=2, intermediate=64, context=96)
    folder = tmp_path_factory.mktemp("policy")
    loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=16), folder)
    return folder


@pytest.fixture
def policy(folder_of_policy: pathlib.Path) -> loading.LoadedPolicy:
    """A fresh copy for every test: training changes weights in place."""
    return loading.load_policy(folder_of_policy)


@pytest.fixture
def report(tmp_path: pathlib.Path) -> progress.Progress:
    return progress.Progress(tmp_path)
