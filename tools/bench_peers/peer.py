"""One engine of another project in a process of its own. run.py starts it and speaks JSON lines with it.

The first line says what to load; each further one is a turn, `{"jobs": [{"text", "image"}], "tokens": n}`, whose jobs
are answered at once, greedily. Times are taken here, around the engine's own calls.
"""

import base64
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def message(job):
    """A message in the form of OpenAI's API."""
    if not job.get("image"):
        return {"role": "user", "content": job["text"]}
    url = "data:image/jpeg;base64," + base64.b64encode(Path(job["image"]).read_bytes()).decode()
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": job["text"]}]}


class Each:
    """Answers each job by a call of its own, all at once."""

    def answer(self, jobs, tokens):
        messages = [message(job) for job in jobs]
        start = time.perf_counter()
        if len(jobs) == 1:
            answers = [self.one(messages[0], tokens)]
        else:
            answers = list(self.pool.map(self.one, messages, [tokens] * len(jobs)))
        return time.perf_counter() - start, answers


class Transformers:
    """Hugging Face transformers on torch: one padded batch a turn, cached keys and values, SDPA."""

    def __init__(self):
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.version = f"{transformers.__version__}, torch {torch.__version__}"

    def load(self, model, threads, seats, dtype):
        torch, hf = self.torch, self.transformers
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        torch.set_grad_enabled(False)
        dtype = getattr(torch, dtype or "float32")
        if model["image"]:
            self.processor = hf.AutoProcessor.from_pretrained(model["dir"])
            self.model = hf.AutoModelForImageTextToText.from_pretrained(model["dir"], dtype=dtype, attn_implementation="sdpa")
            self.tokenizer = self.processor.tokenizer
        else:
            at = {"gguf_file": "model.gguf"} if model["gguf"] else {}
            self.processor = None
            self.tokenizer = hf.AutoTokenizer.from_pretrained(model["dir"], **at)
            self.model = hf.AutoModelForCausalLM.from_pretrained(model["dir"], dtype=dtype, attn_implementation="sdpa", **at)
        self.model.eval()
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.ends()[0])

    def ends(self):
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    def inputs(self, jobs):
        if not self.processor:
            chats = [[{"role": "user", "content": job["text"]}] for job in jobs]
            return self.tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt")
        from PIL import Image

        chats, images = [], []
        for job in jobs:
            parts = [{"type": "image"}] if job.get("image") else []
            chats.append([{"role": "user", "content": [*parts, {"type": "text", "text": job["text"]}]}])
            images += [[Image.open(job["image"])]] if job.get("image") else []
        texts = self.processor.apply_chat_template(chats, add_generation_prompt=True)
        inputs = self.processor(text=texts, images=images or None, padding=True, return_tensors="pt", add_special_tokens=False)
        return inputs.to(self.model.dtype)

    def answer(self, jobs, tokens):
        start = time.perf_counter()
        inputs = self.inputs(jobs)
        written = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        rows = written[:, inputs["input_ids"].shape[1] :].tolist()
        ends = self.ends()
        answers = []
        for row in rows:
            length = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            answers.append((length, self.tokenizer.decode(row[:length], skip_special_tokens=True)))
        return time.perf_counter() - start, answers


class MistralRs(Each):
    """mistral.rs, its `Runner` in this process."""

    def __init__(self):
        import importlib.metadata

        import mistralrs

        self.api, self.version = mistralrs, importlib.metadata.version("mistralrs")

    def load(self, model, threads, seats, dtype):
        api = self.api
        self.pool = ThreadPoolExecutor(seats)
        dtype = {"float32": api.ModelDType.F32, "bfloat16": api.ModelDType.BF16, None: api.ModelDType.Auto}[dtype]
        if model["gguf"]:
            which = api.Which.GGUF(quantized_model_id=model["dir"], quantized_filename="model.gguf")
        elif model["image"]:
            arch = {"smolvlm": api.MultimodalArchitecture.Idefics3, "llava": api.MultimodalArchitecture.LLaVA}[model["family"]]
            which = api.Which.MultimodalPlain(model_id=model["dir"], arch=arch, dtype=dtype)
        else:
            which = api.Which.Plain(model_id=model["dir"], arch=api.Architecture.Llama, dtype=dtype)
        self.runner = api.Runner(which=which, max_seqs=seats, token_source="none")

    def one(self, message, tokens):
        request = self.api.ChatCompletionRequest(model="default", messages=[message], max_tokens=tokens, temperature=0.0, top_k=1)
        answer = self.runner.send_chat_completion_request(request)
        return answer.usage.completion_tokens, answer.choices[0].message.content


class LlamaCpp(Each):
    """llama.cpp, its server in this process (xllamacpp)."""

    def __init__(self):
        import importlib.metadata

        import xllamacpp

        self.api, self.version = xllamacpp, importlib.metadata.version("xllamacpp")
        self.version += f" ({xllamacpp.get_system_info().strip(' |')})"

    def load(self, model, threads, seats, dtype):
        self.pool = ThreadPoolExecutor(seats)
        params = self.api.CommonParams()
        folder = Path(model["dir"])
        params.model.path = str(folder / "model.gguf" if model["gguf"] else folder / "peer/model.gguf")
        if model["image"]:
            params.mmproj.path = str(folder / "peer/mmproj.gguf")
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_parallel, params.kv_unified, params.n_ctx = seats, True, 256 * seats
        # Kept prompts of the past, beyond those of the slots, would only be memory here.
        params.cache_ram_mib = 0
        params.verbosity = 1
        self.server = self.api.Server(params)

    def one(self, message, tokens):
        answer = self.server.handle_chat_completions({"messages": [message], "max_tokens": tokens, "temperature": 0})
        answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["usage"]["completion_tokens"], answer["choices"][0]["message"]["content"]


ENGINES = {"transformers": Transformers, "mistralrs": MistralRs, "llama.cpp": LlamaCpp}


def main():
    # The engines write to standard output too.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what):
        print(json.dumps(what), file=out, flush=True)

    try:
        engine = ENGINES[sys.argv[1]]()
    except ImportError as error:
        return say(missing=str(error))
    say(version=engine.version)
    for line in sys.stdin:
        what = json.loads(line)
        try:
            if "load" in what:
                engine.load(**what["load"])
                say(loaded=True)
            else:
                seconds, answers = engine.answer(what["jobs"], what["tokens"])
                say(seconds=seconds, tokens=[n for n, _ in answers], texts=[text for _, text in answers])
        except BaseException as error:  # A panic of Rust is no Exception.
            say(error=f"{type(error).__name__}: {error}"[:400])


if __name__ == "__main__":
    main()
