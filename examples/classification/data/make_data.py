#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes train.csv, dev.csv and test.csv: requests to a house in English, and which of eight services each is for.

    python3 make_data.py            writes the files beside this script and reports on them
    python3 make_data.py --check    compares them with what would be written; exit status 1 if they differ

Only the standard library is used, and everything follows from SEED. Train, dev and test share the things that are
spoken of (rooms, songs, goods, times), but no sentence template and no polite phrase around it. Words are shared by
the classes too: one turns on a lamp, a radiator and the radio, and asks of a door whether it is clean, locked or lit.
"""

import csv
import io
import random
import re
import string
import sys
from pathlib import Path

SEED = 7707
SIZES = {"train": 200, "dev": 20, "test": 40}  # of every class

SLOTS = {
    "room": ["kitchen", "bedroom", "bathroom", "office", "garage", "hall", "library", "cellar", "living room", "attic"],
    "door": ["front door", "back door", "garage door", "garden gate", "kitchen window", "cellar window"],
    "lamp": ["lamp", "light", "lights", "reading lamp", "ceiling light"],
    "colour": ["red", "blue", "white", "yellow", "green"],
    "heater": ["heating", "radiator", "heater", "stove"],
    "degrees": ["eighteen degrees", "nineteen degrees", "twenty degrees", "21 degrees", "22 degrees", "23 degrees"],
    "music": ["a song", "jazz", "the piano concert", "an old song", "some music", "the new album", "the radio",
              "a waltz", "something by Bach"],
    "goods": ["bread", "milk", "eggs", "coffee", "apples", "cheese", "soap", "rice", "butter", "tea", "light bulbs",
              "sugar", "potatoes", "cleaning powder"],
    "dirt": ["floor", "carpet", "stairs", "table", "windows", "shelves", "sofa"],
    "deed": ["call my mother", "take the medicine", "water the plants", "pay the rent", "feed the cat",
             "write to the bank", "lock the door", "buy bread", "close the window", "meet Tom", "clean the oven"],
    "event": ["the dentist", "the meeting with Anna", "the party", "the train to the city", "my lesson",
              "the dinner with the Browns"],
    "time": ["at nine", "at six", "at noon", "in an hour", "in ten minutes", "tomorrow morning", "on Monday",
             "on Friday evening", "before dinner"],
    "day": ["today", "tomorrow", "tonight", "this evening", "on Sunday", "this week", "in the morning"],
    "sky": ["rain", "snow", "storm", "wind", "fog", "sun"],
    "town": ["the city", "the mountains", "London", "the north", "the village", "Boston"],
}  # fmt: skip

# What stands around a request; a phrase before it ends in a comma where the request may be a question.
BEFORE = {
    "train": ["", "", "", "please, ", "hello house, ", "okay, ", "hey, ", "um, ", "listen, ", "one more thing, ",
              "my dear, ", "now, ", "all right, "],
    "dev": ["", "", "excuse me, ", "so, ", "good evening, "],
    "test": ["", "", "well, ", "good morning, ", "oh, ", "if you can, ", "one question, "],
}  # fmt: skip
AFTER = {
    "train": ["", "", "", "", " please", " now", ", will you", ", thank you", " at once"],
    "dev": ["", "", ", that is all", " if possible"],
    "test": ["", "", ", thanks", ", be so kind", " for me"],
}  # fmt: skip

TEMPLATES = {
    "lights": {
        "train": ["turn on the {lamp} in the {room}", "turn the {room} {lamp} off", "it is too dark in the {room}",
                  "make the {lamp} brighter", "switch off every {lamp}", "i want {colour} light in the {room}",
                  "is the {lamp} in the {room} still on", "dim the {lamp}", "i cannot see anything in the {room}",
                  "leave the {lamp} by the {door} on {day}", "the {room} should be dark when we watch a film",
                  "change the {lamp} to {colour}", "which lights are burning", "put the {lamp} out",
                  "all lights on", "could we have {colour} light {day}",
                  "i will read {day}, so i need a bright {lamp}", "somebody left a {lamp} on in the {room}",
                  "what colour does the {lamp} in the {room} have", "more light", "the {lamp} hurts my eyes",
                  "light up the way to the {door}", "the {lamp} in the {room} does not burn",
                  "darkness in the {room}", "can you see a {lamp} in the {room} that is on",
                  "the {lamp} can go out {day}"],
        "dev": ["give me a {colour} {lamp} in the {room}", "the {room} is very dark {day}",
                "did i leave the {lamp} on in the {room}", "the {lamp} is much too bright"],
        "test": ["let there be light in the {room}", "the {lamp} in the {room} may go off",
                 "could the {lamp} be {colour} {day}", "i am sitting in the dark in the {room}",
                 "the {lamp} near the {door} is not bright enough", "i need more light to read in the {room}",
                 "are the lights out in the {room}", "no {lamp} has to be on in the {room} {day}"],
    },
    "heating": {
        "train": ["turn up the {heater} in the {room}", "set the {room} to {degrees}", "i am cold",
                  "it is too warm in the {room}", "turn off the {heater}", "how warm is it in the {room}",
                  "heat the {room} before we come home {day}", "make it cooler in the {room}",
                  "what temperature does the {room} have", "lower the {heater} by two degrees",
                  "my feet are freezing", "the {heater} in the {room} should be off at night",
                  "keep the {room} at {degrees} {day}", "is the {heater} on",
                  "i want to have it warm in the {room} {day}", "{degrees} is too much for the {room}",
                  "the {heater} in the {room} is cold", "why is it so hot in here", "warm up the {room} {time}",
                  "we save on heat {day}", "the children are cold in the {room}", "let us have {degrees} {day}",
                  "my hands are cold", "less heat", "can you make the {heater} warmer",
                  "it is like ice in the {room}"],
        "dev": ["the {room} needs {degrees}", "we are freezing in the {room}", "start the {heater} {time}",
                "it could be warmer in the {room}"],
        "test": ["i would like {degrees} in the {room}", "the {room} is cold {day}",
                 "give us some more heat in the {room}", "the {heater} is too hot", "can it be a little warmer in here",
                 "the {heater} may be turned down {day}", "how many degrees does the {room} have",
                 "nobody is in the {room}, so let it cool down"],
    },
    "music": {
        "train": ["play {music}", "play {music} in the {room}", "turn on {music}", "stop the music",
                  "the music is too loud", "i would like to hear {music}", "next song", "play that song again",
                  "what is the name of this song", "put on {music} when the guests come", "louder",
                  "turn the volume down in the {room}", "who sings this", "no more music {day}",
                  "sing for us {day}", "we have guests, so let us have {music}", "this song is too quiet",
                  "i love {music}, turn it up", "can you find {music}", "pause", "go back to the song before",
                  "what song is that", "music in the {room}", "i do not like {music}, play another one",
                  "the band should stop {time}", "play it louder in the {room}"],
        "dev": ["we want to listen to {music}", "skip this song", "the radio in the {room} is too quiet",
                "start {music} {time}"],
        "test": ["let me hear {music} in the {room}", "i feel like listening to {music}", "this song is boring, another one",
                 "how about {music} {day}", "the song in the {room} is too loud for me", "who wrote this song",
                 "repeat {music}", "we could dance to {music}, so start it"],
    },
    "cleaning": {
        "train": ["clean the {dirt} in the {room}", "sweep the {room}", "the {dirt} is dirty", "wash the {dirt}",
                  "there is dust on the {dirt}", "vacuum the {room} {time}", "i spilled {goods} on the {dirt}",
                  "wipe the {dirt}", "the {room} looks terrible", "when did you last clean the {room}",
                  "remove the mud by the {door}", "do not vacuum while i sleep", "is the {room} clean",
                  "the cat has made a mess in the {room}",
                  "i want the {dirt} to shine", "the {dirt} needs a wash {day}", "take the dirt out of the {room}",
                  "there is a spot on the {dirt}", "the {room} needs to be swept and washed",
                  "guests come {day}, so clean up", "who will wash the {dirt}", "i dropped {goods} in the {room}",
                  "the {room} is full of dust", "start with the {dirt} and then sweep the {room}",
                  "look at the mud in the {room}", "vacuum"],
        "dev": ["get the dust off the {dirt}", "the {dirt} in the {room} must be washed {day}",
                "the children spilled {goods} in the {room}", "please sweep by the {door}"],
        "test": ["the {dirt} in the {room} could do with a wash", "somebody dropped {goods} on the {dirt}",
                 "what a mess in the {room}", "i want a clean {room} {day}", "dust lies on the {dirt} again",
                 "go over the {dirt} in the {room} with the vacuum", "there is mud all over the {dirt}",
                 "the {room} has not been swept this week"],
    },
    "shopping": {
        "train": ["add {goods} to the shopping list", "we need {goods}", "buy {goods} {day}", "order {goods}",
                  "there is no {goods} left", "put {goods} and {goods} on the list", "what is on the shopping list",
                  "take {goods} off the list", "we are out of {goods}", "get two bags of {goods}",
                  "how much does {goods} cost", "i used the last of the {goods}", "do we have to buy {goods}",
                  "send the list to the shop {time}",
                  "i would like some {goods} from the shop", "the {goods} is empty",
                  "we have no more {goods}, and no {goods}", "are we out of {goods}",
                  "what do we need from the market", "i do not need {goods}, take it off the list",
                  "we must buy {goods} for the party", "read the shopping list to me",
                  "a bag of {goods} for {day}", "go to the shop for {goods}", "order the same {goods} again",
                  "the list needs {goods}"],
        "dev": ["write {goods} on the list", "the {goods} is gone, buy some", "i want to order {goods} and {goods}",
                "is {goods} on the list"],
        "test": ["the list should have {goods} on it", "somebody finished the {goods}, we need new",
                 "bring {goods} from the shop {day}", "cross {goods} off the shopping list",
                 "have we got enough {goods} or must we buy some", "i want {goods} from the market",
                 "{goods} and {goods}, both for the list", "read me the things that we have to buy"],
    },
    "reminder": {
        "train": ["remind me to {deed} {time}", "do not let me forget to {deed}", "set an alarm {time}",
                  "i have to {deed} {time}", "when is {event}", "put {event} into my calendar {time}", "wake me {time}",
                  "set a timer for ten minutes", "what do i have to do {day}", "move {event} to {day}",
                  "tell me {time} that i must {deed}", "cancel {event}", "am i free {day}",
                  "remind everyone of {event}",
                  "i forget everything, tell me to {deed} {time}", "note that i {deed} {time}",
                  "what time is {event}", "is there anything in my calendar {day}", "i need an alarm {time}",
                  "{event} is {time}, write that down", "do i have to {deed} {day}",
                  "let me sleep and wake me {time}", "have i got time {day}", "change {event} to {time}",
                  "what is the next thing that i have to do", "when i come home, tell me to {deed}"],
        "dev": ["i must not forget {event}", "ring {time} so that i {deed}", "when do i have to {deed}",
                "write {event} into the calendar"],
        "test": ["i always forget to {deed}, so tell me {time}", "is {event} {day}", "please note that {event} is {time}",
                 "an alarm {time} would be good", "let me know {time} when i have to {deed}",
                 "what is in my calendar {day}", "{event} will be later, change it to {day}",
                 "do i have time for {event} {day}"],
    },
    "weather": {
        "train": ["will there be {sky} {day}", "what is the weather like in {town}", "do i need an umbrella {day}",
                  "how cold will it be {day}", "is it raining", "how is the weather {day}", "will it be warm in {town}",
                  "when does the {sky} stop", "give me the forecast for {town}", "can we sit in the garden {day}",
                  "is the {sky} coming to {town}", "how many degrees will it have in {town} {day}",
                  "should i wear a coat {day}", "does the sun shine in {town}",
                  "i am going to {town}, will it {sky}", "is it cold or warm outside",
                  "how much {sky} do they have in {town}", "the forecast, and only for {town}",
                  "what should i wear {day}, is it cold", "is it a nice day outside",
                  "is the weather better in {town}",
                  "can the children play in the garden {day} or will there be {sky}", "how strong is the {sky}",
                  "tell me about the weather in {town} {day}", "they say that {sky} is coming",
                  "i hate the {sky}, when is it over"],
        "dev": ["do they have {sky} in {town}", "tell me the forecast for {day}", "is it warm outside {day}",
                "will i get wet {day}"],
        "test": ["is {sky} expected in {town}", "shall i take an umbrella to {town}", "does it look like {sky} {day}",
                 "what will the weather do {day}", "is it cold outside in {town}", "i hope there is no {sky} {day}, is there",
                 "what does the forecast say about {town}", "which day this week has the best weather"],
    },
    "locks": {
        "train": ["lock the {door}", "unlock the {door}", "is the {door} locked", "open the {door}", "close the {door}",
                  "who is at the {door}", "did somebody open the {door}", "let Tom in by the {door}",
                  "turn on the alarm for burglars", "show me the camera at the {door}", "is every window closed",
                  "keep the {door} shut {day}", "i heard a noise at the {door}", "lock up the house when we leave",
                  "i think that somebody is at the {door}", "is the house locked", "did you lock up {day}",
                  "somebody is coming in by the {door}", "open up", "do not open the {door} for anybody",
                  "the {door} is not closed", "the bell rings at the {door}", "for Anna you may open the {door}",
                  "shut every door and window", "can a burglar get in by the {door}",
                  "the lock of the {door} does not close"],
        "dev": ["make sure that the {door} is locked", "is anybody at the {door}", "the {door} is open, shut it",
                "look through the camera at the {door}"],
        "test": ["the {door} must stay locked {day}", "i forgot to close the {door}", "somebody knocks at the {door}, who is it",
                 "check the lock of the {door}", "could you open up the {door} for Anna", "did i lock the {door}",
                 "nobody may come in by the {door} {day}", "what does the camera in the {room} see"],
    },
}  # fmt: skip


def fill(template, rng):
    """Every slot drawn by itself: two of a kind may differ."""
    parts = []
    for text, slot, _, _ in string.Formatter().parse(template):
        parts += [text, rng.choice(SLOTS[slot]) if slot else ""]
    return "".join(parts)


def sentence(split, template, rng):
    text = rng.choice(BEFORE[split]) + fill(template, rng) + rng.choice(AFTER[split])
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


def make():
    """{split: [(text, label)]}; no text occurs twice, whatever its capitals."""
    rng = random.Random(SEED)
    seen = set()
    splits = {}
    for split, size in SIZES.items():
        rows = []
        for label, templates in TEMPLATES.items():
            for n in range(size):
                template = templates[split][n % len(templates[split])]
                for _ in range(1000):
                    text = sentence(split, template, rng)
                    if text.lower() not in seen:
                        break
                    # A template without slots has few sentences: another one of its class takes over.
                    template = rng.choice(templates[split])
                seen.add(text.lower())
                rows.append((text, label))
        rng.shuffle(rows)
        splits[split] = rows
    assert len(seen) == sum(len(rows) for rows in splits.values())
    return splits


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def report(splits):
    train = [(words(text), label) for text, label in splits["train"]]
    known = set().union(*(w for w, _ in train))
    for split, rows in splits.items():
        print(f"{split:5} {len(rows)} requests, {len(set().union(*(words(t) for t, _ in rows)))} distinct words")
        if split == "train":
            continue
        near = right = 0
        for text, label in rows:
            w = words(text)
            share, guess = max((len(w & other) / len(w | other), guess) for other, guess in train)
            near += share
            right += guess == label
        new = set().union(*(words(t) for t, _ in rows)) - known
        print(f"      {len(new)} words that train does not have; mean Jaccard of words with the nearest train request "
              f"{near / len(rows):.2f}; that one's label is right for {100 * right / len(rows):.1f}%")  # fmt: skip


def main():
    here = Path(__file__).parent
    splits = make()
    same = True
    for split, rows in splits.items():
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(rows)
        path = here / f"{split}.csv"
        if "--check" in sys.argv[1:]:
            same &= path.exists() and path.read_text() == out.getvalue()
        else:
            path.write_text(out.getvalue())
    report(splits)
    if not same:
        sys.exit("the files differ from what this script writes")


main()
