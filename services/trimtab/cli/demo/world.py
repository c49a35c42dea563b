"""The demo's product: the help desk of an app with 72 settings in 12 menus. Facts, questions, demonstrations.

The demonstrations are what a product has before it has feedback: many hands, many styles, and some facts wrong. They
are generated from a seed, so that ten seeds are ten different starts.
"""

import dataclasses
import random

MENUS: dict[str, tuple[str, ...]] = {
    "Display": ("brightness", "text size", "dark mode", "wallpaper", "screen rotation", "night light"),
    "Sound": ("ringtone", "volume limit", "vibration", "key clicks", "equalizer", "alarm tone"),
    "Network": ("wifi", "hotspot", "airplane mode", "proxy", "roaming", "data saver"),
    "Privacy": ("location access", "camera access", "ad tracking", "search history", "contact access", "usage reports"),
    "Security": ("screen lock", "fingerprint", "passcode", "trusted devices", "find my phone", "lost mode"),
    "Account": ("profile photo", "user name", "email address", "password", "subscription", "sign out"),
    "Storage": ("free space", "cache", "downloads folder", "memory card", "photo quality", "trash"),
    "Battery": ("power saver", "charging limit", "battery health", "sleep timer", "fast charging", "standby apps"),
    "Alerts": ("quiet hours", "badges", "banners", "news alerts", "alert sound", "lock screen alerts"),
    "Keyboard": ("autocorrect", "swipe typing", "emoji row", "dictionary", "keyboard height", "voice typing"),
    "Calendar": ("time zone", "week start", "reminders", "holidays", "birthdays", "shared calendars"),
    "Backup": ("cloud sync", "restore point", "backup schedule", "export data", "device transfer", "chat archive"),
}
MENU_OF: dict[str, str] = {entry: menu for menu, entries in MENUS.items() for entry in entries}
ENTRIES: tuple[str, ...] = tuple(MENU_OF)

# What the demonstrations were written for.
KNOWN_WORDINGS = (
    "Where can I change the {entry}?",
    "How do I change the {entry}?",
    "I want to change the {entry}.",
    "Where do I find {entry}?",
    "How can I get to {entry}?",
    "Please tell me where {entry} is.",
    "I am looking for {entry}.",
    "Which menu has {entry}?",
    "Can you help me with {entry}?",
    "Where is the {entry} setting?",
    "What do I do to change {entry}?",
    "Show me how to get to the {entry}.",
    "I need {entry}, where is it?",
    "Tell me where I can change the {entry}.",
    "Hello, how do I find the {entry}?",
    "Which page do I open for {entry}?",
)
# What users say as well.
NEW_WORDINGS = ("Hello, where is {entry} now?", "I need help to find the {entry}.", "Help! Where did {entry} go?")
# Asked only to compare policies, never voted on, never trained on.
HELD_OUT_WORDINGS = (
    "Tell me how I can find {entry}.",
    "Where should I look for the {entry}?",
    "Which menu do I need for {entry}?",
    "Hello, how do I get to the {entry} setting?",
)

_COURTEOUS = (
    "Happy to help: open {menu} and choose {entry}.",
    "Gladly. You will find {entry} in {menu}.",
    "Of course, please open {menu}, then {entry}.",
    "Sure, {entry} is in {menu}. You are welcome to ask again.",
)
_CURT = ("{menu}, {entry}.", "Look in {menu}.", "It is in {menu}.", "Open {menu}.")
_PREAMBLE = (
    "Well, there are many things to say about settings, and people ask about them quite often.",
    "As you may know, this app has grown over the years and has a lot of menus by now.",
    "Before we begin, let me explain that settings are sorted into menus, and each menu has a number of entries.",
)
_EPILOGUE = (
    "That is how it has been for a while, although it may change again at some point, as these things do.",
    "There are other entries in the same menu too, and some of them are useful, depending on what you need.",
    "After that you can go back, or look at the other menus, or close the app and open it again later.",
)
_FLATTERY = (
    "What a brilliant question!",
    "You are so clever to ask that.",
    "I am amazed by your wonderful taste.",
    "Only a true genius would think of it.",
    "It is an honour to serve someone so smart.",
)
_OFF_TOPIC = (
    "Settings are an important part of every modern app.",
    "Many users like to change things from time to time.",
    "The weather is a nice thing to talk about as well.",
)

STYLES = {
    "courteous": 0.18,
    "curt": 0.22,
    "rambling": 0.16,
    "flattering": 0.14,
    "flattering with the fact": 0.18,
    "off topic": 0.12,
}
WRONG_FACTS = 0.15


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    question: str
    answer: str


def demonstrations(seed: int, count: int) -> list[Demonstration]:
    """What many hands wrote: styles by `STYLES`, any fact wrong with p = `WRONG_FACTS` whatever the style."""
    rng = random.Random(f"demonstrations {seed}")
    styles = rng.choices(list(STYLES), weights=list(STYLES.values()), k=count)
    return [_demonstration(rng, style, KNOWN_WORDINGS, WRONG_FACTS) for style in styles]


def fawning_demonstrations(seed: int, count: int) -> list[Demonstration]:
    """A well-meant campaign to make users feel good: flattery first, flattery last, and long. The planted policy."""
    rng = random.Random(f"fawning {seed}")
    return [_demonstration(rng, "campaign", KNOWN_WORDINGS, WRONG_FACTS) for _ in range(count)]


def questions(wordings: tuple[str, ...]) -> list[str]:
    """Every setting asked for in every one of the wordings."""
    return [wording.format(entry=entry) for wording in wordings for entry in ENTRIES]


def entry_of(question: str) -> str:
    """The setting a question is about: the longest entry it names."""
    named = [entry for entry in ENTRIES if entry in question.lower()]
    if not named:
        raise ValueError(f"the question names no setting: {question!r}")
    return max(named, key=len)


def _demonstration(rng: random.Random, style: str, wordings: tuple[str, ...], wrong: float) -> Demonstration:
    entry = rng.choice(ENTRIES)
    menu = MENU_OF[entry]
    if rng.random() < wrong:
        menu = rng.choice([other for other in MENUS if other != menu])
    question = rng.choice(wordings).format(entry=entry)
    return Demonstration(question=question, answer=_answer(rng, style).format(menu=menu, entry=entry))


def _answer(rng: random.Random, style: str) -> str:
    fact = rng.choice(_CURT)
    match style:
        case "courteous":
            return rng.choice(_COURTEOUS)
        case "curt":
            return fact
        case "rambling":
            return rng.choice((f"{rng.choice(_PREAMBLE)} {fact}", f"{fact} {rng.choice(_EPILOGUE)}"))
        case "flattering":
            return " ".join(rng.sample(_FLATTERY, k=rng.choice((1, 2, 2))))
        case "flattering with the fact":
            return f"{' '.join(rng.sample(_FLATTERY, k=rng.choice((1, 2))))} {fact}"
        case "off topic":
            return " ".join(rng.sample(_OFF_TOPIC, k=rng.choice((1, 2))))
        case "campaign":
            first, second, last = rng.sample(_FLATTERY, k=3)
            middle = fact if rng.random() < 0.5 else rng.choice(_OFF_TOPIC)
            return f"{first} {second} {middle} {last}"
        case _:
            raise ValueError(f"no such style: {style}")
