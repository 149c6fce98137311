"""Writes sentencepiece.json: texts and the ids that the SentencePiece library has for them.

Needs `pip install sentencepiece==0.2.3`; run as `python sentencepiece.py FOLDER`, the folder with the two models.
"""

import json
import pathlib
import sys

# This file has the name of the library: it is not to import itself.
HERE = pathlib.Path(sys.path.pop(0)).resolve()

from sentencepiece import SentencePieceProcessor

MODELS = ["tokenizer_internlm.model", "tokenizer_internlm2.model"]

TEXTS = [
    # Nothing, and spaces.
    "", " ", "  ", "   a", "a   ", " a  b ", " " * 7, " " * 40, "a" + " " * 17 + "b", "▁", "▁a▁", "\u00a0\u3000 x",
    # Line ends and tabs.
    "\n", "\n\n\n", "\r\n", "a\r\nb\r\n\r\nc", "\t", "\t\t\t\t\tx", "a \t b", "  \n  \n", "x;\n\n    y;\n",
    # English.
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "It's 2024, isn't it?", "don't DON'T Don’t",
    "internationalization " * 3, "supercalifragilisticexpialidocious", "a" * 100, "x" * 33 + "yz" * 20,
    # Chinese, and a mixture.
    "你好，世界！", "深度学习框架：把大模型的训练变得简单。", "书生·浦语大模型", "価格は¥3,500です。", "龘靐齉爩",
    "mixed 中文 and English, 价格是 $3.50。", "——……“引号”《书名》", "ＡＢＣ　Ｅａｚ１２３", "我" * 30,
    # Other scripts.
    "Привет, мир", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "안녕하세요", "שלום", "Ελληνικά ñ ü ß ﬁ",
    # Code.
    "fn main() {\n    let x: u32 = 0x1f; // comment\n\tprintln!(\"{x:?}\");\n}\n",
    "def f(x):\n    return [y ** 2 for y in x if y]\n", "for (int i = 0; i < n; ++i) {\r\n\ta[i] += b[i];\r\n}\r\n",
    "{\"key\": [1, 2.5e-3, null]}", "\\frac{\\partial L}{\\partial w} = 0", "https://a.example/b?c=d&e=%20#f",
    "-" * 61, "=" * 30 + "\n" + "*" * 19, "1234567890 3.14159 1,000,000",
    # Bytes to fall back on, and text that is hardly text.
    "👩‍👩‍👧‍👦 🇨🇳 🙂", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "\0", "a\0\0b", "\u0301", "e\u0301 é n\u0303\u0308", "z" + "\u0336" * 12,
    "\u200b\u200d\ufeff", "\ufffd\ufffe\uffff", "\ue000\uf8ff\U000f0000\U0010ffff", "\x01\x1b[0m\x7f\x85",
    # User-defined pieces, whole, in parts and overlapping; text that looks like a byte piece.
    "[UNUSED_TOKEN_7]", "x[UNUSED_TOKEN_140] [UNUSED_TOKEN_", "<eoh> <eoa><eoh", "<TOKENS_UNUSED_2>",
    "———", "………", "—…", "<0x41><0x00>", "[UNUSED_TOKEN_1[UNUSED_TOKEN_1]]",
]

goldens = {}
for name in MODELS:
    library = SentencePieceProcessor(model_file=str(pathlib.Path(sys.argv[1]) / name))
    goldens[name] = [[text, library.encode(text)] for text in TEXTS]

with open(HERE / "sentencepiece.json", "w") as file:
    models = (
        f" {json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(case)}" for case in cases) + "\n ]"
        for name, cases in goldens.items()
    )
    file.write("{\n" + ",\n".join(models) + "\n}\n")
