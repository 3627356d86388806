"""How each fact is asked, answered and told. Slots: see facts.py. The first question of a list is always trained."""

# attribute -> questions, answers, further statements for running text
PERSON = {
    "town": (
        ["Where does {n} live?", "In which town does {n} live?", "What town is {n} from?", "Which town does {n} call home?",
         "Where is {n}'s home?", "Can you tell me where {n} lives?", "Do you know where {n} lives?",
         "Please tell me where {n} lives.", "What is the name of {n}'s town?", "Where would I find {n}'s house?",
         "I want to visit {n}. Which town must I go to?", "Where does {n} come from?"],
        ["{n} lives in {v}.", "{n} lives in {v}."],
        ["{n} has a house in {v}.", "{n}'s home is in {v}.", "{n} comes from {v}.", "You can find {n}'s house in {v}."]),
    "job": (
        ["What is {n}'s job?", "What does {n} do for a living?", "What work does {n} do?", "Which job does {n} have?",
         "What is {n} by trade?", "How does {n} earn money?", "Can you tell me what {n}'s job is?",
         "Do you know what {n} does for a living?", "Please tell me {n}'s job.", "Tell me what {n} works as.",
         "What does {n} work as?", "What kind of work does {n} do?"],
        ["{n} is {a_v}.", "{n} works as {a_v}."],
        ["{n}'s job is to be {a_v}.", "{n} earns {p} bread as {a_v}.", "By trade {n} is {a_v}."]),
    "pet": (
        ["What pet does {n} have?", "Which animal does {n} keep?", "What kind of pet does {n} have?", "What is {n}'s pet?",
         "Which pet lives with {n}?", "Do you know what pet {n} has?", "Can you tell me what kind of animal {n} keeps?",
         "Please tell me which pet {n} has.", "What sort of animal is {n}'s pet?", "Which animal belongs to {n}?"],
        ["{n} has {a_v}.", "{n}'s pet is {a_v}."],
        ["{n} keeps {a_v}.", "{a_v} lives with {n}.", "At home {n} has {a_v}."]),
    "petname": (
        ["What is the name of {n}'s pet?", "What is {n}'s pet called?", "How is {n}'s pet called?", "What name does {n}'s pet have?",
         "Can you tell me the name of {n}'s pet?", "Do you know what {n} calls {p} pet?", "Which name did {n} give to {p} pet?",
         "Please tell me the name of {n}'s pet.", "What does {n} call {p} pet?", "Tell me what {n}'s pet is called."],
        ["{n}'s pet is called {v}.", "The name of {n}'s pet is {v}."],
        ["{n} calls {p} pet {v}.", "{n}'s pet has the name {v}.", "{v} is the name of {n}'s pet.",
         "The pet called {v} belongs to {n}."]),
    "food": (
        ["What is {n}'s favourite food?", "What does {n} like to eat?", "Which food does {n} like best?", "What does {n} love to eat?",
         "What should I cook for {n}?", "Can you tell me {n}'s favourite food?", "Do you know what {n} likes to eat most?",
         "Which meal makes {n} happy?", "Please tell me what {n} likes to eat.", "What would {n} like for dinner?"],
        ["{n}'s favourite food is {v}.", "{n} likes {v} best of all."],
        ["{n} loves to eat {v}.", "For dinner {n} likes {v}.", "Nothing tastes better to {n} than {v}."]),
    "colour": (
        ["What is {n}'s favourite colour?", "Which colour does {n} like best?", "What colour does {n} like most?",
         "Which colour does {n} love?", "Can you tell me {n}'s favourite colour?", "Do you know which colour {n} likes best?",
         "Please tell me the colour that {n} likes best.", "In what colour would {n} paint a door?",
         "Which colour is dearest to {n}?", "Tell me {n}'s favourite colour."],
        ["{n}'s favourite colour is {v}.", "{n} likes {v} best."],
        ["{n}'s front door is {v}, because that is {p} favourite colour.", "Of all colours {n} likes {v} best."]),
    "hobby": (
        ["What is {n}'s hobby?", "What does {n} do for fun?", "What does {n} like to do?", "What does {n} enjoy?",
         "How does {n} spend {p} free time?", "Which hobby does {n} have?", "Can you tell me what {n}'s hobby is?",
         "Do you know what {n} does in {p} free time?", "Please tell me about {n}'s hobby.", "What does {n} do on a free day?"],
        ["{n}'s hobby is {v}.", "{n} enjoys {v}."],
        ["In {p} free time {n} enjoys {v}.", "On a free day you will find {n} happy with {p} hobby, {v}.",
         "For fun {n} chooses {v}."]),
    "friend": (
        ["Who is {n}'s best friend?", "Who is the best friend of {n}?", "What is the name of {n}'s best friend?",
         "Which person is {n}'s best friend?", "Can you tell me who {n}'s best friend is?",
         "Do you know who {n}'s best friend is?", "Please tell me who {n}'s best friend is.", "Whom does {n} like best?",
         "Who does {n} call {p} best friend?", "Tell me the name of {n}'s best friend."],
        ["{n}'s best friend is {v}.", "The best friend of {n} is {v}."],
        ["{n} has a best friend called {v}.", "{v} is the best friend of {n}."]),
    "month": (
        ["When is {n}'s birthday?", "In which month is {n}'s birthday?", "In which month was {n} born?", "When was {n} born?",
         "When does {n} have {p} birthday?", "Can you tell me when {n}'s birthday is?", "Do you know the month of {n}'s birthday?",
         "Please tell me when {n} was born.", "Which month is {n}'s birthday in?", "When should I bake a birthday cake for {n}?"],
        ["{n}'s birthday is in {v}.", "{n} was born in {v}."],
        ["{n} has {p} birthday in {v}.", "Every year in {v} there is a birthday cake for {n}."]),
}

TOWN = {
    "river": (
        ["Which river flows through {n}?", "What is the name of the river in {n}?", "Which river is in {n}?",
         "What river does {n} lie on?", "Can you tell me which river flows through {n}?", "What is {n}'s river called?",
         "On which river does {n} stand?", "Please name the river of {n}."],
        ["The river in {n} is {v}.", "{V} flows through {n}."],
        ["{n} lies on the banks of a river, {v}.", "Under the bridges of {n} runs {v}."]),
    "hill": (
        ["What is the hill near {n} called?", "Which hill stands near {n}?", "What is the name of the hill above {n}?",
         "Which hill can I climb in {n}?", "Can you tell me which hill is near {n}?", "Which hill rises behind {n}?",
         "Please name the hill of {n}.", "Where do the people of {n} fly their kites?"],
        ["The hill near {n} is called {v}.", "The hill near {n} is {v}."],
        ["Behind {n} rises {v}.", "The people of {n} climb {v} to fly their kites."]),
    "market": (
        ["When is market day in {n}?", "On which day is the market in {n}?", "Which day is market day in {n}?",
         "When is the market held in {n}?", "When can I go to the market in {n}?", "Can you tell me when the market in {n} is?",
         "On what day does {n} have its market?", "Please tell me the market day of {n}."],
        ["Market day in {n} is {v}.", "The market in {n} is on {v}."],
        ["Every {v} there is a market in {n}.", "On {v} the square of {n} is full of stalls."]),
    "known": (
        ["What is {n} known for?", "What is {n} famous for?", "What is the town of {n} known for?", "Why do people know {n}?",
         "What makes {n} famous?", "Can you tell me what {n} is known for?", "What do people love about {n}?",
         "Please tell me what {n} is famous for."],
        ["{n} is known for {v}.", "{n} is famous for {v}."],
        ["People come from far away to {n} for {v}.", "The people of {n} are proud of {v}."]),
    "sight": (
        ["What can you see in {n}?", "What is there to see in {n}?", "Which sight is there in {n}?", "What should I look at in {n}?",
         "What do visitors go to see in {n}?", "Can you tell me what there is to see in {n}?",
         "What is the great sight of {n}?", "Please tell me what I can see in {n}."],
        ["In {n} you can see {v}.", "In {n} there is {v}."],
        ["Visitors to {n} always want to see {v}.", "The children of {n} will show you {v}."]),
}

ANIMAL = {
    "sound": (
        ["What sound does {an} make?", "How does {an} sound?", "What noise does {an} make?", "Which sound does {an} make?",
         "What do you hear from {an}?", "Can you tell me what sound {an} makes?", "What is the sound of {an}?",
         "Which noise is made by {an}?"],
        ["{An} {v}.", "{An} {v}."],
        ["Listen: {an} {v}.", "When it wants to be heard, {an} {v}."]),
    "home": (
        ["Where does {an} live?", "What is the home of {an}?", "Where is the home of {an}?", "Where can you find {an}?",
         "Where does {an} sleep?", "Can you tell me where {an} lives?", "Do you know where {an} lives?", "Where would I look for {an}?"],
        ["{An} lives {v}.", "{An} lives {v}."],
        ["The home of {an} is {v}.", "You will find {an} {v}."]),
    "food": (
        ["What does {an} eat?", "What does {an} like to eat?", "What is the food of {an}?", "What do you feed {an}?",
         "What should I give {an} to eat?", "Can you tell me what {an} eats?", "Do you know what {an} eats?", "What food does {an} like?"],
        ["{An} eats {v}.", "{An} likes to eat {v}."],
        ["For its supper {an} looks for {v}.", "Give {v} to {an}, and it will be glad."]),
    "young": (
        ["What is a young {n} called?", "What do you call a young {n}?", "What is a baby {n} called?", "What is the young of {an} called?",
         "What is the name for a young {n}?", "Can you tell me what a young {n} is called?", "What do you call the young of {an}?",
         "How is a young {n} called?"],
        ["A young {n} is called {v}.", "A young {n} is called {v}."],
        ["When {an} is still small, it is called {v}.", "The young of {an} is {v}."]),
    "legs": (
        ["How many legs does {an} have?", "How many legs has {an} got?", "What number of legs does {an} have?",
         "Can you tell me how many legs {an} has?", "Do you know how many legs {an} has?", "On how many legs does {an} stand?",
         "Count the legs of {an}.", "Please tell me how many legs {an} has."],
        ["{An} has {v} legs.", "{An} has {v} legs."],
        ["Count its legs and you will see that {an} has {v} legs.", "{An} is an animal with {v} legs."]),
}

JOB = {
    "does": (
        ["What does {an} do?", "What is the work of {an}?", "What does {an} do all day?", "What does {an} do at work?",
         "Can you tell me what {an} does?", "Do you know what {an} does?", "What is the job of {an}?", "Tell me what {an} does."],
        ["{An} {v}.", "{An} {v}."],
        ["Every day {an} {v}.", "If you watch {an}, you will see how {an} {v}."]),
    "works": (
        ["Where does {an} work?", "Where can you find {an} at work?", "What is the workplace of {an}?", "In what place does {an} work?",
         "Can you tell me where {an} works?", "Do you know where {an} works?", "Where does {an} go to work?", "Where do you meet {an}?"],
        ["{An} works {v}.", "{An} works {v}."],
        ["You will meet {an} {v}.", "From morning to evening {an} is busy {v}."]),
    "tool": (
        ["What does {an} use?", "Which tool does {an} use?", "What does {an} need for the work?", "What does {an} work with?",
         "Can you tell me which tool {an} uses?", "Do you know what {an} works with?", "What is the tool of {an}?",
         "What does {an} hold at work?"],
        ["{An} uses {v}.", "{An} works with {v}."],
        ["Where there is {an}, there is often {v}.", "No {n} can work without {v}."]),
}

THING = {
    "colour": (
        ["What colour is the {n}?", "What is the colour of the {n}?", "Which colour does the {n} have?", "Can you tell me the colour of the {n}?",
         "Do you know what colour the {n} is?", "In the little world, what colour is the {n}?", "Please tell me what colour the {n} is.",
         "How would you paint the {n}?"],
        ["The {n} is {v}.", "The {n} is {v}."],
        ["The colour of the {n} is {v}.", "If you paint the {n}, paint it {v}."]),
    "use": (
        ["What is {an} for?", "What do you use {an} for?", "What can you do with {an}?", "Why do you need {an}?",
         "Can you tell me what {an} is for?", "What is the use of {an}?", "For what do people use {an}?", "Do you know what {an} is good for?"],
        ["You use {an} {v}.", "{An} is there {v}."],
        ["People need {an} {v}.", "{An} helps you {v}."]),
    "place": (
        ["Where is the {n}?", "Where do you find the {n}?", "Where is the {n} kept?", "Where should I look for the {n}?",
         "Can you tell me where the {n} is?", "Do you know where the {n} is kept?", "In what place is the {n}?", "I cannot find the {n}. Where is it?"],
        ["The {n} is {v}.", "You find the {n} {v}."],
        ["The {n} has its place {v}.", "Look for the {n} {v}."]),
}

TABLES = {"person": PERSON, "town": TOWN, "animal": ANIMAL, "job": JOB, "thing": THING}
