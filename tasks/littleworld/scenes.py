"""Phrases for the smaller kinds of text: rhymes, sayings, diaries, market days, recipes, opposites.

`<theme>` is a word of a theme of `words.py`, `{slot}` one of a pool of `stories.py` or one that the writer names;
`@` becomes a or an.
"""

RHYMES = [pair.split("/") for pair in """cat/hat tree/bee moon/spoon hill/mill plane/crane house/mouse goat/boat frog/log bell/well
king/ring crow/bow fox/box bear/chair pen/hen wall/ball star/jar lake/cake sock/clock boot/flute dish/fish bed/sled book/cook
key/sea nest/chest pot/cot sheep/jeep lamp/tramp cart/tart bread/thread pie/fly rose/hose snail/pail mule/stool whale/sail
plum/drum dove/glove kite/light swing/string toad/road pig/wig hare/pear park/lark queen/bean train/rain
shoe/zoo gate/plate""".split()]

COUPLETS = """Under @ <a tree> there sat @ {a}, | and close beside it stood @ {b}.
I went to look for a lost {a} | and came back home with @ {b}.
Once upon a time @ {adj} {a} | fell in love with @ {adj2} {b}.
Who can find the {colour} {a}? | It is hidden behind the {b}.
All day long I dreamed of @ {a} | and all night long of @ {adj} {b}.
Give me, give me, please, the {a}, | and I will give you back the {b}.
In <something to wear+> of silk there came @ {a}, | and on its head there was @ {b}.
The <a bird> told it to the {a}, | and then the {a2} told the {b}.
I have @ {adj} little {a}, | it likes to look at @ {b}.
Do not ever wake the {a} | when it is sleeping by the {b}.
{name} bought @ {adj} {a}, | {name2} only bought @ {b}.
There is nothing like @ {a}, | unless it is @ {adj} {b}.
One for the {c} and two for the {a}, | and three for the {colour} {b}.
Down in {town} there is @ {a} | as big as any other {b}."""

SAYINGS = """A kind word costs nothing and is worth a lot.|A good friend is better than a full purse.|Who asks will learn.|Small steps go
far.|After rain comes sunshine.|An honest answer is the best present.|What you can mend you need not buy.|Early birds find the best
berries.|Too many cooks make a salty soup.|A shared cake tastes twice as sweet.|Listen first and speak later.|A lie has short legs.|He
who laughs at others has not looked into the mirror.|Patience is a tree with bitter roots and sweet fruit.|Where there is music, there is
no quarrel.|Even a long road has an end.|Better a small fish than an empty dish.|Empty barrels make the most noise.|Do today what you can
do today.|A candle loses nothing when it lights another candle.|Every pot finds its lid.|The apple does not fall far from the tree.|Many
hands make light work.|You cannot hurry a tortoise.|A warm stove is worth two coats.|Those who plant trees love their
grandchildren.|Nobody is too old to learn.|Courage is fear that keeps walking.|Count your eggs after breakfast.|A smile opens more doors
than a key.|Good advice is rarer than rubies.|A quiet river can be deep.|Whoever is in a hurry should go slowly.|Two wrongs do not make a
right.|The best cook is hunger.|Old friends and old wood burn warmest.|He who digs a hole for others falls into it.|A clean conscience is a
soft pillow.|Water wears away the hardest stone.|If you want to see the valley, climb the hill.""".replace("\n", " ").split("|")

OPPOSITES = [pair.split("/") for pair in """big/small hot/cold high/low long/short old/young new/old fast/slow loud/quiet light/dark
light/heavy hard/soft wet/dry full/empty open/closed clean/dirty rich/poor happy/sad good/bad right/wrong right/left up/down in/out
early/late near/far thick/thin wide/narrow deep/shallow strong/weak brave/timid clever/foolish polite/rude sweet/sour rough/smooth
sharp/blunt tight/loose tidy/messy hungry/full cheap/dear kind/cruel lazy/busy beautiful/ugly always/never everything/nothing
everybody/nobody day/night morning/evening summer/winter begin/end laugh/cry give/take push/pull buy/sell find/lose remember/forget
rise/sink arrive/leave ask/answer question/answer friend/enemy war/peace truth/lie""".split()]

DIARY = """Today I got up early and watched the {wx} outside.|I met @ {adj} <a bird> on my way to work.|My {pet} {petname} stole @ <a fruit> from
the table.|For lunch I cooked {food} and ate two plates full.|In the afternoon I had time for {hobby}.|I could not find my <something to
wear> and had to go without it.|{friend} came to visit and brought @ <something to eat>.|I saw @ {colour} <something to wear> in the shop, but it was
too dear.|I learned a new word today, and now I use it all the time.|The <a vehicle> was late, so I walked home across the <a place in nature>.|At
work somebody asked me whether I like being @ {job}. I do.|I planted @ <a flower> in front of my house in {town}.|I heard @ <a musical
instrument> through the open window.|A letter came from {friend}, and I read it three times.|I painted the shelf {favourite}, my favourite
colour.|I bought @ <something in the kitchen> at the market.|I forgot the <something in the kitchen> on the stove, and now the kitchen smells of
smoke.|I helped a neighbour to carry @ <a piece of furniture>.|I lost @ <a toy> of the neighbour's child and found it under @ <a tree>.|I dreamed of
@ <an insect> as big as @ <a building>.|In the evening I was {tired} and {glad} at the same time.|My <a part of the body> hurts, so I shall stay at home
tomorrow.|There was {sky} to be seen tonight, and I looked at it for a long time.|Now I will blow out the candle and
sleep.""".replace("\n", " ").split("|")

MARKET = """{seller} sells <a vegetable+> and <a fruit+>.|There is @ {mild} smell of <something to eat+> everywhere.|@ <a musical instrument> is playing, and
two children are dancing.|A basket of <a fruit+> costs {n} coins.|@ {colour} <something to wear> hangs from a hook.|{seller} the {sellerjob} has
come as well and looks for @ <a tool>.|An old woman sells <a flower+> and <a flower+>.|Somebody has dropped @ <something in the kitchen>, and it
rolls down the street.|@ <a bird> sits on the roof of a stall and waits for crumbs.|"Fresh <a fish>!" calls the fishmonger.|@ {adj} <a piece of furniture> can be had for {n} coins.|A stall is full of <a toy+>, and that is where all the children are.|A cart with <a material> and <a material>
stands in the way.|{seller} buys @ <something to eat> and some <a drink> for the way home.|@ <something on a farm> is for sale, but nobody wants
it.""".replace("\n", " ").split("|")

RECIPE = """Take {n} <a vegetable+> and wash them well.|Wash @ <a fruit> and chop it into little pieces.|Put everything into @ {vessel}
and stir well.|Add a spoon of {spice} and a little salt.|Let it simmer for {n} minutes.|Taste it, and add a bit of pepper.|Sprinkle some
nuts on top.|Cover it with @ {cover} and wait.|Pour in a cup of <a drink>.|Bake it until it is golden.|Serve it hot, with @ <something to
eat> beside it.|Share it with a friend, then it tastes even better.""".replace("\n", " ").split("|")

PICTURE = """Under @ <a tree> stands @ <a piece of furniture> with @ <a fruit> on it.|@ <a bird> sings {adv}, and @ <an insect> sits on @ <a flower>.|The
children are playing {adv} with @ <a toy>.|Somebody has left @ <a tool> and @ <something to wear> in the grass.|It smells of <something to eat+> and of {smell}.|@ <a musical instrument> can be heard from afar, and it makes everybody feel {glad}.|The sky is <a colour>, and {sky} can be seen.|@ {adjective} <something on a farm> is a strange sight here.|An old man is mending @ {adjective} <a tool> with great care.|Behind @ {adjective}
<a building> lies @ {adjective} garden.|@ <a vehicle> made of <a material> comes slowly along the road.|The water is {water}, and @ <a fish> leaps out of it.|Far away one can see @ {adjective} <a building>.|A girl in @ <a colour> <something to wear> waves {adv}.|A boy with @ {adjective} <something to wear> is
eating @ <something to eat>.|Full of {joy}, {name} looks at all of it.|In the grass lies @ {adjective} <a musical instrument>, and nobody knows why.|{name} has painted this with much {joy}.|On the left there is @ {adjective} <something at sea>, on the right @ {adjective} <something in the
house>.""".replace("\n", " ").split("|")
