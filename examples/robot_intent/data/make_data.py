#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes train.jsonl, dev.jsonl and test.jsonl: robot commands in English, and the intent each one asks for.

    python3 make_data.py            writes the files beside this script and reports on them
    python3 make_data.py --check    compares them with what would be written; exit status 1 if they differ

Only the standard library is used, and everything follows from SEED.

The splits share the vocabulary of argument values. Train, dev and test share no sentence template and hardly a
verb phrase; dev and test share with train no polite or hesitating phrase around it and no combination of two
argument values (a colour with an object, a direction with a distance, ...). See README.md.
"""

import json
import random
import re
import sys
from pathlib import Path

SEED = 20260
TRAIN_SIZE = 1920
DEV_SIZE = 320
TEST_SIZE = 320
MAX_WORDS = 20

OBJECTS = ["cup", "ball", "book", "box", "bottle", "lamp", "key", "plate", "hat", "chair"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", None]
ROOMS = ["kitchen", "garden", "garage", "office", "bedroom", "library", "door", "window"]
SURFACES = ["table", "shelf", "floor", "desk"]
GREETINGS = ["hello", "good morning", "thank you", "welcome", "good night", "well done"]
PEOPLE = ["anna", "tom", "everyone", "children", "sir", "madam", "friends"]
UNITS = ["seconds", "minutes"]
NUMBERS = list(range(1, 21))
ANGLES = [10, 15, 20, 30, 45, 60, 90, 120, 180]
DIRECTIONS = ["forward", "back", "left", "right"]

WORDS = {
    1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine",
    10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen",
    17: "seventeen", 18: "eighteen", 19: "nineteen", 20: "twenty", 30: "thirty", 45: "forty-five",
    60: "sixty", 90: "ninety", 120: "a hundred and twenty", 180: "a hundred and eighty",
}  # fmt: skip

# How a direction is said; which of them stands in a sentence is drawn at random in every split.
SPOKEN = {
    "forward": ["forward", "forwards", "ahead", "straight ahead"],
    "back": ["back", "backwards", "backward"],
    "left": ["left", "to the left"],
    "right": ["right", "to the right"],
}

# What stands before and after a command. What is no plain imperative (a question, "on the table, ...") takes
# only a phrase that ends in a comma, or none.
BEFORE = {
    "train": ["", "", "", "please ", "could you ", "can you ", "robot, ", "hey robot, ", "okay, ", "um, ",
              "i want you to ", "i need you to ", "now ", "robot, please ", "you should ", "next, ",
              "robot, could you please ", "i think you should ", "hello robot, ", "if you can hear me, ",
              "you can ",
              "then ", "let us see you ", "my friend, ", "first ", "all right, now "],
    "dev": ["", "", "would you ", "kindly ", "well, ", "so, robot, ", "i would like you to ", "dear robot, ",
             "listen, ", "it is time to ", "will you please "],
    "test": ["", "", "i ask you to ", "be so kind as to ", "good, ", "hey, ", "my robot, ", "at last, ",
             "i wish you to "],
}  # fmt: skip
AFTER = {
    "train": ["", "", "", "", " please", " now", " for me", ", thanks", " right away", " then", ", robot",
              ", will you", " as soon as you can", " if it is not too much trouble", ", quickly",
              " for everybody", ", that is all"],
    "dev": ["", "", "", " if you can", " when you are ready", ", would you", " at once, please"],
    "test": ["", "", "", ", my friend", " today", " without delay", ", if you please"],
}
# A prohibition asks for nothing: nothing, whatever command follows.
PROHIBIT = {
    "train": ["do not ", "don't ", "never ", "please do not ", "robot, don't ", "i do not want you to "],
    "dev": ["you must not ", "please don't ", "be sure not to ", "whatever happens, do not "],
    "test": ["i forbid you to ", "you should not ", "in no case ", "make sure you do not "],
}

# Slots: {thing} an object with or without a colour, {other} one that is not meant, {place}, {room2} not meant,
# {surface}, {spoken} a direction, {dir} left or right, {n} a number, {angle}, {unit}, {speech}.
TEMPLATES = {
    "move": {
        "train": ["move {spoken} {n} {metres}", "go {spoken} {n} {metres}", "drive {n} {metres} {spoken}",
                  "walk {n} {metres} {spoken}", "step {spoken} by {n} {metres}", "move {n} {metres} {spoken}",
                  "go about {n} {metres} {spoken}", "drive {spoken} for {n} {metres}",
                  "take yourself {spoken} {n} {metres}", "come {spoken} {n} {metres}",
                  "run {spoken} {n} {metres}", "go {spoken} a distance of {n} {metres}",
                  "continue {spoken} for {n} {metres}", "ride {spoken} {n} {metres}",
                  "get {n} {metres} {spoken}",
                  "advance {n} {metres} {spoken}"],
        "dev": ["roll {spoken} {n} {metres}", "travel {n} {metres} {spoken}", "head {spoken} for {n} {metres}",
                "proceed {n} {metres} {spoken}", "roll {spoken} about {n} {metres}"],
        "test": ["slide {spoken} {n} {metres}", "march {n} {metres} {spoken}",
                 "push on {spoken} for {n} {metres}", "wander {n} {metres} {spoken}"],
    },
    "turn": {
        "train": ["turn {dir} {angle} degrees", "turn {angle} degrees {dir}",
                  "turn to the {dir} by {angle} degrees",
                  "rotate {angle} degrees to the {dir}", "rotate {dir} by {angle} degrees",
                  "spin {dir} {angle} degrees", "spin {angle} degrees to the {dir}",
                  "make a {dir} turn of {angle} degrees", "turn yourself {angle} degrees to the {dir}",
                  "turn {dir} {angle} degrees, not {dir2}", "face {angle} degrees to the {dir}",
                  "change direction by {angle} degrees to the {dir}"],
        "dev": ["swing {dir} {angle} degrees", "pivot {angle} degrees to the {dir}",
                "swing {angle} degrees {dir}",
                "veer to the {dir} by {angle} degrees", "pivot {dir} by about {angle} degrees"],
        "test": ["twist {dir} {angle} degrees", "whirl {angle} degrees to the {dir}",
                 "circle {angle} degrees {dir}", "lean to the {dir} by {angle} degrees"],
    },
    "stop": {
        "train": ["stop", "stop moving", "halt", "stand still", "stop right there", "stop what you are doing",
                  "stop your wheels", "keep still", "halt right there", "stop everything", "make a stop",
                 "end all of this", "come and stand still", "stay still", "stop it"],
        "dev": ["come to a stop", "stop all movement", "bring everything to a halt", "be still",
                "stop where you are", "come to a halt", "stop and stand where you are"],
        "test": ["freeze", "stop all your motion", "bring yourself to a stop", "stop in your place",
                 "halt all work"],
    },
    "take": {
        "train": ["pick up {thing}", "pick {thing} up", "take {thing}", "grab {thing}", "lift {thing}",
                  "get {thing}", "take {thing} in your hand", "use your hand to grab {thing}",
                  "pick up {thing}, not {other}", "reach out your hand and take {thing}", "lift {thing} up",
                  "hold {thing} in your hand", "forget {other} and take {thing}",
                  "catch {thing} with your hand",
                  "go for {thing} and take it", "find {thing} and lift it", "carry {thing} in your hand",
                  "pull {thing} up and hold it"],
        "dev": ["collect {thing} with your hand", "grasp {thing} in your hand",
                "raise {thing} up in your hand",
                "reach for {thing} and pick it up", "collect {thing}, not {other}",
                "put your hand around {thing} and lift it"],
        "test": ["seize {thing} with your hand", "pluck {thing} up in your hand", "grip {thing} with your hand",
                 "pick out {thing}, not {other}"],
    },
    "put": {
        "train": ["put {thing} on the {surface}", "put down {thing} on the {surface}",
                  "place {thing} on the {surface}", "set {thing} down on the {surface}",
                  "leave {thing} on the {surface}", "lay {thing} on the {surface}",
                  "put {thing} down onto the {surface}", "on the {surface}, put down {thing}",
                  "put {thing}, not {other}, on the {surface}", "let {thing} stand on the {surface}",
                  "place {thing} onto the {surface}", "send {thing} down to the {surface}",
                  "on the {surface}, leave {thing}"],
        "dev": ["drop {thing} on the {surface}", "rest {thing} on the {surface}",
                "deposit {thing} onto the {surface}",
                "release {thing} down on the {surface}", "on the {surface}, drop {thing}"],
        "test": ["store {thing} on the {surface}", "park {thing} onto the {surface}",
                 "unload {thing} on the {surface}", "on the {surface}, place {thing}"],
    },
    "go": {
        "train": ["go to the {place}", "drive to the {place}", "walk to the {place}", "come to the {place}",
                  "move to the {place}", "go over to the {place}", "find the way to the {place}",
                  "go to the {place}, not the {place2}", "move yourself to the {place}",
                  "forget the {place2} and go to the {place}", "run to the {place}", "get to the {place}",
                  "enter the {place}", "bring yourself to the {place}", "drive over to the {place}",
                  "be in front of the {place}", "take the road to the {place}",
                  "walk over to the {place}, not the {place2}", "show yourself at the {place}"],
        "dev": ["travel to the {place}", "head over to the {place}", "make your way to the {place}",
                "proceed to the {place}", "return to the {place}", "head to the {place}, not the {place2}",
                "be at the {place}"],
        "test": ["wander over to the {place}", "fly to the {place}", "hurry to the {place}",
                 "visit the {place}", "step over to the {place}, not the {place2}"],
    },
    "look": {
        "train": ["look at {thing}", "watch {thing}", "point your camera at {thing}",
                  "turn your eyes to {thing}",
                  "keep your eyes on {thing}", "look over at {thing}", "look at {thing}, not {other}",
                  "let your camera see {thing}", "watch {thing} with your camera", "set your eyes on {thing}",
                  "stop watching {other} and look at {thing}", "use your camera to see {thing}",
                  "turn the camera on {thing}", "take a look at {thing}", "see {thing} with your eyes",
                  "move your eyes to {thing}, not {other}"],
        "dev": ["aim your camera at {thing}", "have a good look at {thing}", "fix your eyes on {thing}",
                "direct your eyes towards {thing}", "focus the camera on {thing}",
                "aim your eyes at {thing}, not {other}"],
        "test": ["observe {thing} with your camera", "study {thing} with your eyes", "gaze at {thing}",
                 "point your eyes at {thing}, not {other}"],
    },
    "speed": {
        "train": ["set your speed to {n}", "set the speed to {n}", "change your speed to {n}", "use speed {n}",
                  "go at speed {n}", "make your speed {n}", "drive at speed {n}", "put the speed at {n}",
                  "let the speed be {n}", "go with a speed of {n}", "bring your speed to {n}",
                  "move at a speed of {n}",
                  "raise your speed to {n}", "try speed {n}", "keep your speed at {n}"],
        "dev": ["adjust your speed to {n}", "travel at a speed of {n}", "switch the speed to {n}",
                "fix your speed at {n}", "run at a speed of {n}", "choose speed {n}"],
        "test": ["reduce your speed to {n}", "pick speed {n}", "hold the speed at {n}",
                 "work at a speed of {n}"],
    },
    "wait": {
        "train": ["wait {n} {unit}", "wait for {n} {unit}", "pause for {n} {unit}", "stay here for {n} {unit}",
                  "do nothing for {n} {unit}", "wait here {n} {unit}", "hold on for {n} {unit}",
                  "for {n} {unit}, wait", "stay where you are for {n} {unit}", "give me {n} {unit}",
                  "sleep for {n} {unit}", "keep quiet for {n} {unit}", "stop for {n} {unit}",
                  "have {n} {unit} of peace", "be quiet for {n} {unit}", "spend {n} {unit} here"],
        "dev": ["stand by for {n} {unit}", "remain here for {n} {unit}", "take a break of {n} {unit}",
                "for the next {n} {unit}, be idle", "rest for {n} {unit}"],
        "test": ["linger here for {n} {unit}", "stand here for {n} {unit}", "hang on for {n} {unit}",
                 "for {n} {unit}, do nothing"],
    },
    "say": {
        "train": ["say {speech}", "say the words {speech}", "speak and say {speech}", "repeat {speech}",
                  "say to them {speech}", "tell them {speech}", "use your voice to say {speech}",
                  "say loudly {speech}", "read out {speech}", "say this: {speech}", "tell people {speech}",
                  "cry {speech}", "answer them with {speech}", "call to them {speech}", "pronounce {speech}",
                  "let them hear {speech}"],
        "dev": ["announce {speech}", "call out {speech}", "speak the words {speech}", "say aloud {speech}",
                "greet them with {speech}", "shout {speech}"],
        "test": ["whisper {speech}", "declare {speech}", "sing out {speech}", "give them the words {speech}"],
    },
    "battery": {
        "train": ["how much battery is left?", "check your battery", "tell me your battery level",
                  "is your battery full?", "how much power do you have?", "report the battery",
                  "how is your battery?", "tell me how much power is left", "show the battery level",
                  "is there power in your battery?", "check how much battery you have",
                  "let me know the battery level", "check the power", "what power is left?",
                  "is there enough battery?", "give me the battery level", "how low is your battery?"],
        "dev": ["what is your battery level?", "have you got enough power left?",
                "give me the state of the battery",
                "is the battery low?", "how full is your battery?", "look up your battery level",
                "read me the battery level", "what about the battery?"],
        "test": ["is your battery empty?", "state your battery level", "how good is your battery?",
                 "do you have much power left?"],
    },
}  # fmt: skip

# Shares of the intents; "nothing" is made from the commands of the others.
SHARES = {
    "move": 13, "turn": 10, "stop": 5, "take": 13, "put": 12, "go": 10, "look": 11,
    "speed": 7, "wait": 8, "say": 8, "battery": 5, "nothing": 7,
}  # fmt: skip


def held_out(i, j):
    """Whether values i and j of two arguments never meet in the train split (about one pair in five)."""
    return (2 * i + j) % 5 == 0


class Maker:
    """Draws commands of one split."""

    def __init__(self, split, seed):
        self.split = split
        self.rng = random.Random(seed)

    def pair(self, first, second):
        """One value of each list, of a combination that belongs to this split."""
        while True:
            i, j = self.rng.randrange(len(first)), self.rng.randrange(len(second))
            if held_out(i, j) == (self.split != "train"):
                return first[i], second[j]

    def other(self, values, meant):
        return self.rng.choice([v for v in values if v != meant])

    def number(self, n):
        return WORDS[n] if self.rng.random() < 0.5 else str(n)

    def thing(self, noun, colour):
        article = self.rng.choice(["the", "the", "the", "that"])
        return " ".join(w for w in (article, colour, noun) if w)

    def core(self, intent):
        """(template, command without its frame, completion)."""
        rng = self.rng
        template = rng.choice(TEMPLATES[intent][self.split])
        slots, args = {}, []
        if intent == "move":
            direction, n = self.pair(DIRECTIONS, NUMBERS)
            slots = {"spoken": rng.choice(SPOKEN[direction]), "n": self.number(n)}
            slots["metres"] = "metre" if n == 1 else "metres"
            args = [("direction", direction), ("distance", n)]
        elif intent == "turn":
            direction, angle = self.pair(["left", "right"], ANGLES)
            slots = {"dir": direction, "dir2": self.other(["left", "right"], direction)}
            slots["angle"] = self.number(angle)
            args = [("direction", direction), ("angle", angle)]
        elif intent in ("take", "put", "look"):
            noun, colour = self.pair(OBJECTS, COLOURS)
            slots["thing"] = self.thing(noun, colour)
            slots["other"] = self.thing(self.other(OBJECTS, noun), rng.choice(COLOURS))
            args = [("object", noun)] + ([("colour", colour)] if colour else [])
            if intent == "put":
                slots["surface"] = rng.choice(SURFACES)
                args.append(("place", slots["surface"]))
        elif intent == "go":
            place = rng.choice(ROOMS + ["table", "shelf", "desk"])
            slots = {"place": place, "place2": self.other(ROOMS, place)}
            args = [("place", place)]
        elif intent == "speed":
            n = rng.choice(NUMBERS)
            slots = {"n": self.number(n)}
            args = [("level", n)]
        elif intent == "wait":
            n, unit = self.pair(NUMBERS, UNITS)
            slots = {"n": self.number(n), "unit": unit[:-1] if n == 1 else unit}
            args = [("time", n), ("unit", unit)]
        elif intent == "say":
            slots = {"speech": " ".join(self.pair(GREETINGS, PEOPLE))}
            args = [("text", slots["speech"])]
        completion = " " + intent + (": " + ", ".join("%s %s" % a for a in args) if args else "")
        return template, template.format(**slots), completion

    def example(self, intent):
        """(template, prompt, completion)."""
        rng = self.rng
        if intent == "nothing":
            template, command, _ = self.core(self.other([i for i in SHARES if i != intent], "battery"))
            command, completion = rng.choice(PROHIBIT[self.split]) + command, " nothing"
        else:
            template, command, completion = self.core(intent)
            if command.endswith("?") or command.startswith(("on ", "for ")):
                command = rng.choice([b for b in BEFORE[self.split] if not b or b.endswith(", ")]) + command
            else:
                command = rng.choice(BEFORE[self.split]) + command + rng.choice(AFTER[self.split])
        return template, "Command: %s\nIntent:" % self.dress(command), completion

    def dress(self, command):
        """Some people write capitals and full stops, others do not."""
        if self.rng.random() < 0.5:
            return command
        asks = re.match(r"(.*, )?(could|can|would|will) you|.*\?$", command)
        return command[0].upper() + command[1:].rstrip("?") + ("?" if asks else ".")


def make(split, size, seed, taken):
    """`size` examples with prompts that differ from each other and from those in `taken`."""
    maker = Maker(split, seed)
    total = sum(SHARES.values())
    rows = []
    for intent, share in SHARES.items():
        wanted = round(size * share / total)
        while wanted:
            template, prompt, completion = maker.example(intent)
            if prompt.lower() in taken or len(prompt.split()) > MAX_WORDS + 2:
                continue
            taken.add(prompt.lower())
            rows.append({"template": template, "prompt": prompt, "completion": completion})
            wanted -= 1
    maker.rng.shuffle(rows)
    return rows


def tokens(prompt):
    return frozenset(re.findall(r"[a-z0-9'-]+", prompt.lower().split("\n")[0][len("command: "):]))


def values(completion):
    """The argument values of a completion, speech left out."""
    pairs = [a.split(" ", 1) for a in completion.partition(": ")[2].split(", ") if a]
    return {value for name, value in pairs if name != "text"}


def nearness(train, other):
    """How near the prompts of `other` lie to those of `train`, as lines of text."""
    table = [(tokens(r["prompt"]), r["completion"]) for r in train]
    overlaps, right = [], 0
    for r in other:
        mine = tokens(r["prompt"])
        best, answer = max((len(mine & t) / len(mine | t), c) for t, c in table)
        overlaps.append(best)
        right += answer == r["completion"]
    overlaps.sort()
    at = [overlaps[round(q * (len(overlaps) - 1))] for q in (0, 0.25, 0.5, 0.75, 0.9, 1)]
    known = {c for _, c in table}
    return [
        "completions that also occur in train: %d of %d"
        % (sum(r["completion"] in known for r in other), len(other)),
        "word Jaccard of each prompt with its nearest train prompt:",
        "  min %.2f  quartiles %.2f %.2f %.2f  90%% %.2f  max %.2f" % tuple(at),
        "answering with the nearest train prompt's completion: exact match %.1f%%" % (100 * right / len(other)),
    ]


def report(splits):
    """Checks what README.md promises and prints how near dev and test lie to train."""
    train = splits["train"]
    seen = set().union(*(values(r["completion"]) for r in train))
    names = list(splits)
    for i, name in enumerate(names):
        rows = splits[name]
        assert max(len(tokens(r["prompt"])) for r in rows) <= MAX_WORDS
        for r in rows:
            assert seen.issuperset(values(r["completion"])), r
        for other in names[:i]:
            for key in ("prompt", "template"):
                assert not {r[key] for r in rows} & {r[key] for r in splits[other]}
        templates, answers = {r["template"] for r in rows}, {r["completion"] for r in rows}
        words = set().union(*(tokens(r["prompt"]) for r in rows))
        print("%-5s %4d examples, %3d templates, %3d distinct completions, %3d distinct words"
              % (name, len(rows), len(templates), len(answers), len(words)))  # fmt: skip
    for name in names[1:]:
        print(name + ":")
        for line in nearness(train, splits[name]):
            print("  " + line)


def main():
    here = Path(__file__).resolve().parent
    taken = set()
    splits = {
        "train": make("train", TRAIN_SIZE, SEED, taken),
        "dev": make("dev", DEV_SIZE, SEED + 1, taken),
        "test": make("test", TEST_SIZE, SEED + 2, taken),
    }
    report(splits)
    differs = False
    for name, rows in splits.items():
        text = "".join(
            json.dumps({"prompt": r["prompt"], "completion": r["completion"]}) + "\n" for r in rows
        )
        path = here / (name + ".jsonl")
        if "--check" not in sys.argv[1:]:
            path.write_bytes(text.encode())
        elif not path.exists() or path.read_bytes() != text.encode():
            print("%s is not what this script writes" % path.name)
            differs = True
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
