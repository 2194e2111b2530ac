"""Tiny language models with tokenizers of their own, and some text for them to read."""

import json
import random
from pathlib import Path

import torch

WORDS = ("a", "be", "cat", "do", "eel", "fog", "go", "hat", "ink", "jam", "key", "low", "moo")
WIDTH, BLOCKS, LONGEST = 16, 4, 32


def make_model(folder: Path, kind: str, head: bool = False) -> Path:
    """Write a model like ``bert``, ``llama`` or ``gpt2`` with its tokenizer; gives the folder.

    Its weights are random. With a head, it has learned a little about the next token, so that
    zeros for its vectors cost cross-entropy.
    """
    import transformers

    tokenizer = words_between_marks() if kind == "bert" else bytes_and_pairs()
    size = {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "num_hidden_layers": BLOCKS}
    if kind == "gpt2":
        size = {"vocab_size": len(tokenizer), "n_embd": WIDTH, "n_layer": BLOCKS}
        config = transformers.GPT2Config(**size, n_head=2, n_positions=LONGEST)
    else:
        cls = transformers.BertConfig if kind == "bert" else transformers.LlamaConfig
        heads = {"num_attention_heads": 2, "intermediate_size": 24}
        config = cls(**size, **heads, max_position_embeddings=LONGEST)
    torch.manual_seed(0)
    if head:
        config.initializer_range = 0.3  # predictions differ
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    model = auto.from_config(config)
    if head:
        teach(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(model, tokenizer, steps: int = 30) -> None:
    """Let a causal model read random words for a few steps."""
    words = " ".join(random.Random(1).choices(WORDS, k=300))
    ids_T = torch.tensor(tokenizer(words)["input_ids"])
    ids_BL = ids_T[: len(ids_T) // LONGEST * LONGEST].view(-1, LONGEST)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids_BL, labels=ids_BL).loss.backward()
        optimizer.step()
    model.eval()


def words_between_marks():
    """A tokenizer of words, which puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    ids = {token: number for number, token in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, ids[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    names = dict(zip(("pad", "unk", "cls", "sep"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": mark for name, mark in names.items()}
    )


def bytes_and_pairs():
    """A tokenizer of pairs of bytes, which puts nothing around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def make_text(path: Path, documents: int = 40) -> Path:
    """Write documents of 1 to 40 words, each of one of two labels; gives the file."""
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 40))), "label": "ab"[n % 2]}
        for n in range(documents)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reads(folder: Path, kind: str, head: bool = False) -> list[str]:
    """Write a model and a text into a folder; gives the overrides of a harvest that reads them."""
    model, text = make_model(folder / "model", kind, head), make_text(folder / "rows.jsonl")
    return ["lm=auto", f"lm.path={model}", "text=files", f"text.paths=[{text}]", "threads=1"]
