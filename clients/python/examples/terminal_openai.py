"""The same with the `openai` client: Trimtab speaks its protocol, and takes feedback at /v1/feedback."""

import os
import uuid
from typing import Any

from openai import OpenAI

client = OpenAI(base_url=os.environ["TRIMTAB_BASE_URL"], api_key=os.environ["TRIMTAB_API_KEY"])
headers = {"x-trimtab-session": str(uuid.uuid4())}
conversation: list[Any] = []
while question := input("\nyou: "):
    conversation.append({"role": "user", "content": question})
    reply = client.chat.completions.create(model="main", messages=conversation, extra_headers=headers)
    conversation.append({"role": "assistant", "content": reply.choices[0].message.content})
    print(reply.choices[0].message.content)
    if (thumb := input("good? y/n: ")) in ("y", "n"):
        # the id makes the client's own retries count once
        vote = {"id": str(uuid.uuid4()), "completion_id": reply.id, "kind": "thumb", "value": thumb == "y"}
        print(client.post("/feedback", body=vote, cast_to=object))
