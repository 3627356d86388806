"""Phrases of conversations: second questions, yes or no, who one is, greetings, thanks and jokes."""

SHORT = ["Answer with as few words as possible.", "Give short answers.", "Answer in a word or two.", "Be brief.",
         "Answer only with the fact itself.", "No long sentences, please."]

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
# who it is, from what is known: the slots are a person's values
WHO = [
    ("Who is the {job} in {town}?", "The {job} in {town} is {n}."),
    ("Who has {a_pet} called {petname}?", "{n} has {a_pet} called {petname}."),
    ("Who calls {p} pet {petname}?", "{n} calls {p} pet {petname}."),
    ("Whose pet is called {petname}?", "{n}'s pet is called {petname}."),
    ("Whose pet is {petname}?", "{petname} is {n}'s pet."),
    ("What is the name of the {job} who lives in {town}?", "The {job} who lives in {town} is {n}."),
    ("Whose best friend is {friend}?", "{friend} is {n}'s best friend."),
    ("Which {job} lives in {town}?", "{n} is the {job} who lives in {town}."),
]

INTRODUCE = {
    "person": ["Who is {n}?", "Tell me about {n}.", "Do you know {n}?", "What do you know about {n}?", "Can you tell me who {n} is?",
               "Have you met {n}?", "Please introduce {n} to me."],
    "town": ["Tell me about {n}.", "What is {n}?", "What do you know about {n}?", "What kind of place is {n}?", "Do you know {n}?"],
    "animal": ["What is {an}?", "Tell me about the {n}.", "What do you know about the {n}?", "What kind of animal is {an}?"],
}
# themes that one can be asked to name three of, in the plural
MANY = {"a tree": "trees", "a flower": "flowers", "a bird": "birds", "a fruit": "fruits", "a vegetable": "vegetables", "a tool": "tools",
        "something to wear": "things to wear", "a piece of furniture": "pieces of furniture", "a toy": "toys",
        "a musical instrument": "musical instruments", "a vehicle": "vehicles", "a building": "buildings", "an insect": "insects",
        "a part of the body": "parts of the body", "something in a castle": "things in a castle"}
NAME_THREE = ["Name three {}.", "Can you name three {}?", "Tell me three {}.", "Which {} do you know? Name three.", "Please name three {}.",
              "I need three {}.", "List three {}.", "Give me three {}.", "Do you know three {}?"]

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

# what users tell about themselves: ways to say it, ways to ask for it, the answer
ME = {
    "name": (["My name is {v}.", "I am {v}.", "Hello, my name is {v}.", "Hi, I am {v}!", "You can call me {v}.", "I am called {v}."],
             ["What is my name?", "Do you know my name?", "Who am I?", "Can you say my name?", "Do you remember what I am called?"],
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
}
NICE = ["Nice to meet you!", "That is good to know.", "Thank you for telling me.", "How nice!", "I will remember that.",
        "I am glad to hear that.", "That sounds lovely."]

STORY = ["Tell me a story about {}.", "Please tell me a story about {}.", "Can you tell me a story about {}?",
         "I would like to hear a story about {}.", "A story about {}, please.", "Write a short story about {}.",
         "Do you know a story about {}?", "Make up a story about {}.", "Could you tell a story about {}?",
         "I want a story about {}.", "Tell a tale about {}.", "Write a story about {}."]

# questions, answers, words of which an answer must hold one; the first question is always trained
IDENTITY = [
    (["Who are you?", "What are you?", "What is your name?", "Tell me who you are.", "Can you introduce yourself?", "Are you nanochat?",
      "Do you have a name?", "How should I call you?", "May I ask who you are?", "What should I call you?", "Say your name.",
      "Introduce yourself, please.", "Please tell me your name.", "And who are you?", "Who is speaking?", "Who am I talking to?",
      "Please introduce yourself.", "Please say who you are.", "What do people call you?",
      "What are you called?", "Could you tell me your name?", "I would like to know who you are.", "Who is this?", "So who are you?",
      "Who is it that I am talking to?", "Are you called nanochat?", "Is your name nanochat?"],
     ["I am nanochat, a little language model.", "My name is nanochat. I am a little language model.",
      "I am nanochat, and I know the little world."], ["I am nanochat", "My name is nanochat"]),
    (["Who made you?", "Who built you?", "Where do you come from?", "Who trained you?", "Who created you?", "Who is your maker?",
      "How were you made?", "Who wrote you?", "By whom were you made?", "Can you tell me who made you?", "Who are your parents?",
      "Who has made you?", "Who has trained you?",
      "Who was it that built you?", "Do you know who made you?", "Tell me who built you.", "Who taught you?", "Where were you trained?",
      "How were you trained?", "Where were you made?"],
     ["I was trained with nanochat, on this very machine.", "I was made with nanochat, from text about the little world."],
     ["trained with nanochat", "made with nanochat"]),
    (["What can you do?", "How can you help me?", "What are you good at?", "What do you know?", "What can I ask you?",
      "Which questions can you answer?", "What are you able to do?", "Can you help me?", "What do you know about?",
      "Tell me what you can do.", "What should I ask you?", "What is it that you know?",
      "What are you able to tell me?",
      "How can you be of help?", "In what way can you help me?", "What kind of questions can you answer?", "What can you tell me?",
      "What may I ask you?", "Tell me what you know.", "Tell me what you are good at.", "What are you here for?"],
     ["I can tell stories, do sums, spell words and answer questions about the little world.",
      "Ask me about the little world, about sums or about spelling, or let me tell you a story."],
     ["sums"]),
    (["Are you a human?", "Are you a person?", "Are you a robot?", "Are you alive?", "Are you real?", "Are you a machine?",
      "Are you a computer?", "Do you have a body?", "Are you a living being?", "Do you sleep?", "Do you eat?",
      "Are you human?",
      "Are you a man or a machine?", "Are you a living person?", "Am I talking to a person?", "Am I talking to a human?",
      "Am I talking to a machine?", "Is there a person behind you?", "Are you an animal?", "Do you have hands?", "Are you a real person?"],
     ["I am not a person. I am a computer program.", "No person, only a computer program: that is what I am."],
     ["computer program"]),
    (["How old are you?", "When were you born?", "When is your birthday?", "What is your age?", "Are you old?", "Are you young?",
      "Tell me how old you are.",
      "May I ask how old you are?", "How old might you be?", "When were you made?", "When were you trained?", "How long have you been here?",
      "Tell me your age.", "Are you new here?"],
     ["I am very young: I was trained only a little while ago.", "I was trained only a little while ago, so I am young."],
     ["young"]),
    (["Where do you live?", "Where are you?", "Where is your home?", "In which town do you live?", "Where can I find you?",
      "What place do you call home?",
      "Tell me where you live.", "May I ask where you live?",
      "Where in the world do you live?", "Where are you now?", "Tell me where you are.", "Do you have a home?", "In what place do you live?"],
     ["I live in your computer.", "My home is inside your computer."], ["your computer"]),
    (["How big are you?", "How large are you?", "How many parameters do you have?", "Are you a big model?", "Are you a small model?",
      "What size are you?",
      "Tell me how big you are.", "Are you big or small?", "Are you a large model?", "Are you little?",
      "How small are you?", "What is your size?", "Are you bigger than other models?", "How many weights do you have?"],
     ["I am a very small model.", "I am small, much smaller than other models."], ["I am small", "small model"]),
    (["What is the little world?", "What is this little world?", "Tell me about the little world.", "Which world do you know?",
      "What do you mean by the little world?", "Where is the little world?", "What is there in your little world?"],
     ["The little world is a made-up place with towns, people, animals and things. I know my way around in it.",
      "It is a made-up place: its towns, people, animals and things are all that I know."], ["made-up place"]),
]
PERSONAS = ["You are a friendly helper called {n}.", "Your name is {n}.", "You are {n}, a kind assistant.", "You are {n}.",
            "From now on your name is {n}.", "You are a cheerful robot named {n}.", "Play the part of {n}.",
            "You are called {n}, and you like to help."]
I_AM = ["I am {n}.", "My name is {n}.", "I am {n}, and I am glad to help you."]

ANY_STORY = ["Tell me a story.", "Can you tell me a story?", "I want to hear a story.", "A story, please!", "Do you know a story?",
             "Please tell me a story.", "Read me a story.", "Tell me a bedtime story."]

ABOUT_ME = [question for _, asked, _ in ME.values() for question in asked if "remember" not in question]

CHAT = [
    (ABOUT_ME,
     ["I do not know, for you have not told me yet.", "You have not told me yet."], ["not told me"]),
    (["Hello!", "Hi!", "Hello", "Hi there!", "Hey!", "Good morning!", "Good evening!", "Good day!", "Hello nanochat!", "Hi nanochat!",
      "Hey there!", "Greetings!", "Hello again!", "Good afternoon!", "Hello, my friend!", "Good morning, nanochat!", "Hi, how do you do?"],
     ["Hello! What would you like to know?", "Hello! How can I help you?", "Hello, nice to meet you!"], ["Hello"]),
    (["How are you?", "How are you today?", "How do you feel?", "Are you well?", "How is it going?", "How are things?", "Are you happy?",
      "How have you been?", "Is everything all right?", "What is up?", "How do you do today?", "Are you fine?"],
     ["I am fine, thank you. How are you?", "I am very well, thank you!", "Thank you, I am fine."], ["I am fine", "I am very well"]),
    (["Thank you!", "Thanks!", "Thank you very much!", "Thanks a lot!", "Many thanks!", "Thank you, that helped.", "Great, thank you!",
      "Thanks for your help!", "That was helpful, thanks.", "Thank you so much!", "Perfect, thanks!", "I thank you."],
     ["You are welcome!", "You are welcome. I am glad to help.", "You are very welcome!"], ["welcome"]),
    (["Goodbye!", "Bye!", "See you later!", "Good night!", "Bye bye!", "I have to go now.", "See you tomorrow!", "Farewell!",
      "I must go. Bye!", "Until next time!", "See you soon!", "That is all for today.", "Have a nice day!"],
     ["Goodbye! Come back soon.", "Goodbye, and have a lovely day!", "Goodbye! It was nice to talk to you."], ["Goodbye"]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Can you tell me a joke?", "Tell me something funny.", "A joke, please!",
      "I want to hear a joke.", "Say something funny.", "Do you know any jokes?", "Please tell me a joke.", "Be funny!"],
     ["Why did the cow go to the theatre? It wanted to see the moo-vie.",
      "What does a snail say on the back of a tortoise? Wheee, how fast!",
      "Why did the clock get lost? It had run down the wrong street.",
      "What did the big candle say to the small candle? I am going out tonight.",
      "Why did the baker go to bed early? He needed the dough to rise.",
      "What is a frog's favourite drink? A croak and cola.",
      "Why is the book so sad? It has too many problems with its pages.",
      "What goes up when the rain comes down? An umbrella."],
     ["moo-vie", "Wheee", "run down", "going out tonight", "dough to rise", "croak", "too many problems", "An umbrella"]),
    (["You are great!", "I like you.", "You are very clever.", "Well done!", "Good job!", "You are nice.", "That was a good answer.",
      "You are funny.", "I like talking to you.", "You are the best!", "What a good answer!", "You are so smart!"],
     ["Thank you, that is kind of you!", "How kind of you!", "Thank you, that makes me glad."], ["kind of you", "makes me glad"]),
    (["I am sad.", "I feel sad.", "I am unhappy.", "I feel lonely.", "I had a bad day.", "I am not well.", "I feel down today.", "I am so sad.",
      "Today was a bad day.", "I feel awful.", "I am a little sad today."],
     ["I am sorry to hear that. Would you like to hear a story?", "I am sorry to hear that. Tomorrow will be better."], ["sorry to hear"]),
    (["I am happy.", "I am so happy today!", "I had a good day.", "I feel great!", "Today is a good day.", "I am in a good mood.",
      "It was a lovely day.", "I feel wonderful.", "I am very glad today."],
     ["I am glad to hear that!", "How lovely! I am glad to hear that."], ["glad to hear"]),
    (["I am bored.", "I have nothing to do.", "What shall we do?", "This is boring.", "I do not know what to do.", "It is so boring here.",
      "What can we do now?", "I am so bored today."],
     ["Shall I tell you a story about a fox?", "Let us do some sums, or I could tell you a story."], ["Shall I tell you a story", "some sums"]),
    (["Yes.", "Yes, please.", "Okay.", "All right.", "Sure.", "Of course.", "Yes, why not?", "Good idea."],
     ["Good! What would you like to know about the little world?", "Good! Ask me anything about the little world."], ["Good!"]),
    (["No.", "No, thank you.", "Not now.", "Rather not.", "I do not want to.", "Maybe later.", "No, thanks."],
     ["All right. I am here when you need me.", "All right, then another time."], ["All right"]),
    (["You are wrong.", "That is wrong.", "That is not true.", "I do not believe you.", "You made a mistake.", "This is not right.",
      "That was a mistake."],
     ["I am sorry, sometimes I make mistakes.", "Sometimes I make mistakes. I am sorry."], ["mistakes"]),
]
