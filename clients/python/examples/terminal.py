"""A chat in the terminal that asks for a thumb after every answer. An empty line ends it."""

import os
import uuid

from trimtab_client import Trimtab

session = str(uuid.uuid4())
conversation: list[dict[str, str]] = []
with Trimtab(os.environ["TRIMTAB_ADDRESS"], api_key=os.environ["TRIMTAB_API_KEY"], line="main") as trimtab:
    while question := input("\nyou: "):
        conversation.append({"role": "user", "content": question})
        for piece in trimtab.stream(conversation, session=session):
            print(piece.text, end="", flush=True)
            if answer := piece.answer:
                conversation.append({"role": "assistant", "content": answer.text})
                if (thumb := input("\ngood? y/n: ")) in ("y", "n"):
                    receipt = trimtab.feedback.thumb(answer, up=thumb == "y", surface="terminal")
                    print(f"thanks, noted as {receipt.id}")
