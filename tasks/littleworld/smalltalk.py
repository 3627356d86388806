"""Phrases of conversations: second questions, yes or no, who one is, greetings, thanks and jokes."""

SHORT = ["Answer with as few words as possible.", "Give short answers.", "Answer in a word or two.", "Be brief.",
         "Answer only with the fact itself.", "No long sentences, please.", "One word answers only.", "Keep it short.",
         "Answer briefly.", "Reply with the bare answer.", "Short answers, please.", "You give very short answers.",
         "Use as few words as you can.", "Only say what is asked for, no sentence."]
# {0} is the question, {1} the same with a small letter
IN_A_WORD = ["In one word: {1}", "In a word or two: {1}", "{0} Answer in one word.", "{0} One word, please.", "{0} Be brief.", "Briefly: {1}",
             "{0} Just the answer.", "{0} Short answer, please.", "Answer in one word: {1}", "{0} In one word.", "In short, {1}",
             "{0} No sentence, please.", "Short answer: {1}"]

# kind -> attribute -> the second half of a two-part question, and of its answer
PARTS = {
    "person": {"town": "where does {s} live", "job": "what is {p} job", "pet": "what pet does {s} have",
               "petname": "what is {p} pet called", "food": "what is {p} favourite food", "colour": "what is {p} favourite colour",
               "hobby": "what is {p} hobby", "friend": "who is {p} best friend", "month": "when is {p} birthday"},
    "town": {"river": "which river flows through it", "hill": "which hill stands near it", "market": "when is its market day",
             "known": "what is it known for", "sight": "what can you see there"},
    "animal": {"sound": "what sound does it make", "home": "where does it live", "food": "what does it eat",
               "young": "what is its young called", "legs": "how many legs does it have"},
}
TOLD = {
    "person": {"town": "{s} lives in {v}", "job": "{s} is {a_v}", "pet": "{s} has {a_v}", "petname": "{p} pet is called {v}",
               "food": "{p} favourite food is {v}", "colour": "{p} favourite colour is {v}", "hobby": "{p} hobby is {v}",
               "friend": "{p} best friend is {v}", "month": "{p} birthday is in {v}"},
    "town": {"river": "its river is {v}", "hill": "its hill is called {v}", "market": "its market day is {v}",
             "known": "it is known for {v}", "sight": "there you can see {v}"},
    "animal": {"sound": "it {v}", "home": "it lives {v}", "food": "it eats {v}", "young": "its young is called {v}",
               "legs": "it has {v} legs"},
}
IS_IT = {
    "person": {"town": "Does {n} live in {v}?", "job": "Is {n} {a_v}?", "pet": "Does {n} have {a_v}?",
               "petname": "Is {n}'s pet called {v}?", "food": "Is {n}'s favourite food {v}?",
               "colour": "Is {v} {n}'s favourite colour?", "hobby": "Is {n}'s hobby {v}?", "friend": "Is {v} {n}'s best friend?",
               "month": "Is {n}'s birthday in {v}?"},
    "town": {"market": "Is market day in {n} on {v}?", "hill": "Is {v} the hill near {n}?", "known": "Is {n} known for {v}?"},
    "animal": {"legs": "Does {an} have {v} legs?", "home": "Does {an} live {v}?", "food": "Does {an} eat {v}?"},
    "thing": {"colour": "Is the {n} {v}?"},
}
# who it is, from what is known: the slots are a person's values. A name at the beginning of an answer has no space before
# it, which makes it another token than the one that was read, so the answers begin with other words.
WHO = [
    ("Who is the {job} in {town}?", "The {job} in {town} is {n}."),
    ("Who has {a_pet} called {petname}?", "It is {n} who has {a_pet} called {petname}."),
    ("Who calls {p} pet {petname}?", "It is {n} who calls {p} pet {petname}."),
    ("Whose pet is called {petname}?", "It is {n}'s pet that is called {petname}."),
    ("Whose pet is {petname}?", "It is {n}'s pet that is called {petname}."),
    ("What is the name of the {job} who lives in {town}?", "The {job} who lives in {town} is {n}."),
    ("Whose best friend is {friend}?", "The best friend of {n} is {friend}."),
    ("Which {job} lives in {town}?", "The {job} who lives in {town} is {n}."),
]

INTRODUCE = {
    "person": ["Who is {n}?", "Tell me about {n}.", "Do you know {n}?", "What do you know about {n}?", "Can you tell me who {n} is?",
               "Have you met {n}?", "Please introduce {n} to me."],
    "town": ["Tell me about {n}.", "What is {n}?", "What do you know about {n}?", "What kind of place is {n}?", "Do you know {n}?"],
    "animal": ["What is {an}?", "Tell me about the {n}.", "What do you know about the {n}?", "What kind of animal is {an}?"],
}
# ways to ask one thing about two people, and a question about the second of them
BOTH = {
    "town": ["Where do {0} and {1} live?", "In which towns do {0} and {1} live?", "Where are the homes of {0} and {1}?"],
    "job": ["What are the jobs of {0} and {1}?", "What do {0} and {1} do for a living?", "What work do {0} and {1} do?"],
    "pet": ["What pets do {0} and {1} have?", "Which animals do {0} and {1} keep?"],
    "food": ["What do {0} and {1} like to eat?", "What are the favourite foods of {0} and {1}?"],
    "colour": ["What are the favourite colours of {0} and {1}?", "Which colours do {0} and {1} like best?"],
    "hobby": ["What are the hobbies of {0} and {1}?", "What do {0} and {1} do for fun?"],
    "month": ["When are the birthdays of {0} and {1}?", "When were {0} and {1} born?"],
}
OF_ANOTHER = {"town": "where does {0} live", "job": "what is {0}'s job", "pet": "what pet does {0} have", "food": "what is {0}'s favourite food",
              "colour": "what is {0}'s favourite colour", "hobby": "what is {0}'s hobby", "month": "when is {0}'s birthday"}
# key words in place of a question
KEYWORD = {("person", "town"): "town", ("person", "job"): "job", ("person", "pet"): "pet", ("person", "petname"): "pet's name",
           ("person", "food"): "favourite food", ("person", "colour"): "favourite colour", ("person", "hobby"): "hobby",
           ("person", "friend"): "best friend", ("person", "month"): "birthday", ("town", "river"): "river", ("town", "hill"): "hill",
           ("town", "market"): "market day", ("town", "known"): "fame", ("town", "sight"): "sight", ("animal", "sound"): "sound",
           ("animal", "home"): "home", ("animal", "food"): "food", ("animal", "young"): "young", ("animal", "legs"): "legs"}
KEYWORDS = {"person": ["{n}'s {w}?", "{W} of {n}?", "The {w} of {n}?", "{n}: {w}?", "{n}'s {w}, please."],
            "town": ["{n}: {w}?", "The {w} of {n}?", "{W} of {n}?", "{n}'s {w}?"],
            "animal": ["The {w} of {an}?", "{An}: {w}?", "{W} of {an}?"]}

# a second turn about the same person
AND_THEN = {
    "town": ["where does {s} live?", "in which town does {s} live?", "where is {p} home?"],
    "job": ["what is {p} job?", "what does {s} do for a living?", "what work does {s} do?"],
    "pet": ["what pet does {s} have?", "which animal does {s} keep?", "what is {p} pet?"],
    "petname": ["what is {p} pet called?", "what is the name of {p} pet?"],
    "food": ["what is {p} favourite food?", "what does {s} like to eat?"],
    "colour": ["what is {p} favourite colour?", "which colour does {s} like best?"],
    "hobby": ["what is {p} hobby?", "what does {s} do for fun?", "what does {s} enjoy?"],
    "friend": ["who is {p} best friend?", "what is the name of {p} best friend?"],
    "month": ["when is {p} birthday?", "in which month was {s} born?"],
}

# for training alone
MORE_THEN = {
    "town": ["where is {s} from?", "which town does {s} come from?"],
    "job": ["does {s} have a job?", "how does {s} earn a living?", "what is {s} by trade?"],
    "pet": ["does {s} have a pet?", "does {s} keep an animal?", "what animal does {s} have at home?"],
    "petname": ["does {p} pet have a name?", "what does {s} call {p} pet?"],
    "food": ["what food does {s} like?", "what would {s} like for dinner?"],
    "colour": ["does {s} have a favourite colour?", "what colour does {s} love?"],
    "hobby": ["does {s} have a hobby?", "how does {s} spend {p} free time?"],
    "friend": ["does {s} have a best friend?", "whom does {s} like best?"],
    "month": ["when was {s} born?", "when does {s} have {p} birthday?"],
}
# about the town that somebody lives in, for training alone
THERE = {
    "river": ["which river flows there?", "what is the river there called?"], "hill": ["which hill is near there?", "what is the hill there called?"],
    "market": ["on which day is the market there?", "which day is market day there?"], "known": ["what is the place known for?", "what is that town famous for?"],
    "sight": ["what can I see there?", "what is there to see?"],
}
# what somebody has, and then which it is; for training alone
HAS = {"pet": "a pet", "job": "a job", "hobby": "a hobby", "food": "a favourite food", "colour": "a favourite colour"}
WHICH_IT_IS = ["{n} has {what}, do you know which?", "{n} has {what}. Which one?", "{n} has {what}. Can you tell me which one?",
               "I heard that {n} has {what}. Which one is it?", "{n} has {what}, which one is that?"]

# what users tell about themselves: ways to say it, ways to ask for it, the answer
ME = {
    "name": (["My name is {v}.", "I am {v}.", "Hello, my name is {v}.", "Hi, I am {v}!", "You can call me {v}.", "I am called {v}.", "The name is {v}.", "Call me {v}.",
              "{v} is my name.", "This is {v}."],
             ["What is my name?", "Do you know my name?", "Who am I?", "Can you say my name?", "Do you remember what I am called?",
              "Tell me my name.", "Do you remember my name?", "What am I called?"],
             "Your name is {v}."),
    "town": (["I live in {v}.", "My home is in {v}.", "I come from {v}.", "I am from {v}."],
             ["Where do I live?", "Where am I from?", "Do you remember where I live?"], "You live in {v}."),
    "colour": (["My favourite colour is {v}.", "I like {v} best of all colours.", "I love the colour {v}."],
               ["What is my favourite colour?", "Which colour do I like?", "Do you remember my favourite colour?"],
               "Your favourite colour is {v}."),
    "food": (["I like {v}.", "My favourite food is {v}.", "I love to eat {v}.", "I could eat {v} every day."],
             ["What do I like to eat?", "What is my favourite food?", "Do you remember what I like to eat?"], "You like {v}."),
    "hobby": (["My hobby is {v}.", "I enjoy {v}.", "In my free time I like {v}."],
              ["What is my hobby?", "What do I enjoy?", "Do you remember my hobby?"], "Your hobby is {v}."),
    "pet": (["I have {a_v}.", "My pet is {a_v}.", "At home I have {a_v}."],
            ["What pet do I have?", "Which animal do I have?", "Do you remember my pet?"], "You have {a_v}."),
    "age": (["I am {v} years old.", "My age is {v}.", "I have just turned {v}."],
            ["How old am I?", "What is my age?", "Do you remember how old I am?"], "You are {v} years old."),
    "friend": (["My best friend is {v}.", "My best friend is called {v}.", "My friend's name is {v}.", "{v} is my best friend."],
               ["Who is my best friend?", "What is my friend's name?", "What is my best friend called?", "Do you remember my friend?"],
               "Your best friend is {v}."),
    "dog": (["My dog is called {v}.", "I have a dog called {v}.", "My dog's name is {v}.", "{v} is my dog."],
            ["What is my dog called?", "What is the name of my dog?", "What is my dog's name?", "Do you remember my dog's name?"],
            "Your dog is called {v}."),
    "sister": (["My sister is called {v}.", "I have a sister called {v}.", "My sister's name is {v}."],
               ["What is my sister called?", "What is my sister's name?", "Who is my sister?", "Do you remember my sister's name?"],
               "Your sister is called {v}."),
    "number": (["My favourite number is {v}.", "My lucky number is {v}.", "I like the number {v}."],
               ["What is my favourite number?", "Which number do I like?", "Do you remember my number?"], "Your favourite number is {v}."),
    "animal": (["My favourite animal is {a_v}.", "I like {ns} best of all animals.", "I love {ns}."],
               ["What is my favourite animal?", "Which animal do I like?", "Do you remember my favourite animal?"],
               "Your favourite animal is {a_v}."),
}
NICE = ["Nice to meet you!", "That is good to know.", "Thank you for telling me.", "How nice!", "I will remember that.",
        "I am glad to hear that.", "That sounds lovely."]
NICE_TO_MEET = ["Nice to meet you, {n}!", "Hello, {n}! What would you like to know?", "Hello, {n}! How can I help you?"]

STORY = ["Tell me a story about {}.", "Please tell me a story about {}.", "Can you tell me a story about {}?",
         "I would like to hear a story about {}.", "A story about {}, please.", "Write a short story about {}.",
         "Do you know a story about {}?", "Make up a story about {}.", "Could you tell a story about {}?",
         "I want a story about {}.", "Tell a tale about {}.", "Write a story about {}.", "Tell me a short story about {}.",
         "Give me a story about {}.", "Invent a story about {}.", "Can you write a story about {}?", "Read me a story about {}.",
         "Please write a story about {}.", "Tell us a story about {}.", "Story about {}."]

# for training alone
MORE_STORIES = ["Tell me a story with {}.", "A tale with {} in it, please.", "I would like to read something about {}.", "Think of a story with {}.",
                "A little tale about {}, please.", "Let me hear a tale of {}.", "Can you think of a story with {}?"]

PERSONAS = ["You are a friendly helper called {n}.", "Your name is {n}.", "You are {n}, a kind assistant.", "You are {n}.",
            "From now on your name is {n}.", "You are a cheerful robot named {n}.", "Play the part of {n}.",
            "You are called {n}, and you like to help."]
I_AM = ["I am {n}.", "My name is {n}.", "I am {n}, and I am glad to help you."]

ANY_STORY = ["Tell me a story.", "Can you tell me a story?", "I want to hear a story.", "A story, please!", "Do you know a story?",
             "Please tell me a story.", "Read me a story.", "Tell me a bedtime story.", "Tell me another story.", "Write a story.",
             "Make up a story.", "Tell me a short story.", "A bedtime story, please.", "Write me a story.", "I would like a story.",
             "Story time!", "Give me a story.", "Tell a story.", "Tell us a story, please."]

ABOUT_ME = [question for _, asked, _ in ME.values() for question in asked if "remember" not in question]
