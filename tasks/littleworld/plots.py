"""The plots of the stories: a block is a plot, a line a beat, and the tellings of a beat are divided by ` | `.

{H} {F} are hero and friend when they first appear, {h} {f} ever after; {s} {o} {p} {S} are the hero's pronouns, and the
friend never has one, so that no pronoun is unclear. {T} is the thing at first, {t} ever after, always "it". {at} is
where ("in the forest"), {to} whither ("to the forest"), {pl} the place. `@` becomes a or an. The hero always appears
before the friend, as the one who is asked for first.
"""

PLOTS: str = """
{H} had {T} and took it along wherever {s} went. | {H} owned {T}, a present from {p} grandmother. | Nobody loved {T} as much as \
{H} did. | {H} kept {T} beside {p} bed and looked at it every evening.
{Time}, {s} went {to}, and when {s} came home, {t} was gone. | {Time}, {s} was {at} when {s} noticed that {t} had disappeared. | \
{Time}, a gust of wind carried {t} away, far over the roofs. | {Time}, {s} woke up and could not find {t} anywhere.
{S} looked under the bed, behind the door and even in the soup pot. | {S} searched {adv} in every corner, but there was no trace \
of it. | {S} asked everybody in the street, but nobody had seen {t}. | {S} felt so {sad} that {s} could not eat a single bite.
Then {F} came by and said, "Let us look for it together." | At last {s} met {F}, who had sharp eyes and a kind heart. | "Do not \
give up," said {F}. "Two can see more than one." | Just then {F} called, "Come quickly! I think I have found something!"
Together they followed a trail of {adj} footprints {to}. | They walked {adv} back {to} and turned over every stone. | They \
looked high and low, and {f} even climbed a tree. | Side by side they hurried {to}, where something was shining in the grass.
And there lay {t}, wet but not broken. | There was {t}, stuck in the branches of @ {tree}. | A magpie had hidden {t} in its \
nest, and it gave {t} back with @ {adj} bow. | They found {t} in the hands of a small child, who had kept it safe.
{h} was so {glad} that {s} danced all the way home. | "Thank you, {fv}," said {h}. "From now on we will share it." | That \
evening {h} and {f} sat by the fire with {t} between them. | From that day on {h} tied a ribbon to {t}, so that it would never \
get lost again.

{H} found {T} {at}. | {Time}, {H} went for a walk and found {T} {at}. | {Time}, {H} stumbled over something {at}. It was {T}. | \
Not long ago {H} found {T} lying {at}.
"Who could have lost it?" {s} wondered. | "How {adj} it is!" {s} whispered. "But it is not mine." | {S} picked it up {adv} and \
cleaned it with {p} sleeve. | {S} turned it over and saw a little name scratched into it.
{S} carried {t} from door to door and asked everybody about it. | {S} wrote a note that said: "Found: {T}. Ask {h}." | {S} \
wanted to keep {t}, but {p} heart told {o} to look for the owner. | All day long {s} asked, "Is this yours?" and everybody shook \
their heads.
In the evening {s} met {F}, who was looking for something in the {wx}. | Then {F} came down the lane with tears on both cheeks. \
| At the last house {F} opened the door and gave a shout of joy. | {S} was about to give up when {F} came running.
"That is mine!" cried {f}. "I thought I would never see it again." | "My {ti}!" said {f}. "I have looked for it since {day}." | \
"I lost it last winter," said {f}, "and I have missed it ever since." | "It belonged to my father," said {f} {adv}.
{h} gave {t} back and felt lighter than before. | {h} handed it over, and {f} smiled from ear to ear. | So {t} came home, and \
{f} cooked {food} for both of them. | As a reward {f} gave {h} a big basket of {fruits}.
Being honest had made a new friend, and that is worth more than any {ti}. | Since that day {h} and {f} visit each other every \
{day}. | And whenever {h} needs {t}, {f} lends it gladly. | "Finders can be givers," said {h}, and {s} was proud.

{H} wanted {T} more than anything in the world. | For a long time {H} had dreamed of {T}. | {H} saw {T} in a shop window and \
could not forget it.
But {s} had only three small coins, and that was not enough. | But such a thing cost a lot of money, and {p} pockets were empty. \
| "You must earn it," said the shopkeeper {adv}.
So {s} began to work: {s} carried water, swept the yard and {pastv} the fence. | So {s} went {to} and helped with the harvest \
from morning to night. | {S} fed the hens, washed the windows and sold {fruits} at the market.
It was hard, and often {s} was {tired} in the evening. | Some days were cold, some were long, and some were both. | After a week \
{p} hands were sore, but {p} heart was light.
{F} saw this and decided to help. | {F} watched {o} working and came to lend a hand. | "Why do you work so hard?" asked {F}. \
When {h} had explained it, {f} helped {adv}.
{Time}, {h} counted the coins, and there were enough. | At the end of the month {h} laid a pile of coins on the counter. | \
Finally the day came when {h} could walk into the shop with {p} head held high.
{h} took {t} home and showed it {adv} to {f}. | Now {t} belonged to {h}, and it shone in the evening sun. | {h} held {t} in both \
arms and laughed. "It is even better than I dreamed!"
What you have worked for is twice as dear. | And because {f} had helped, they shared it from the first day on. | That night {h} \
slept {deep}, with {t} beside the pillow.

{H} had {T}, but it was broken. | {Time}, {H} dropped {T}, and it broke with a loud crack. | The best thing {H} owned was {T}, \
but nobody could make it work.
"I will throw it away," {s} said and felt {sad}. | {S} tried to mend it with string and glue, but it fell apart again. | {S} \
turned it and shook it and knocked on it. Nothing helped.
"Wait," said {F} {at}. "Let me have a look at it." | {F}, who often sat {at}, had clever hands and offered to help. | Then {s} \
remembered {F}, who worked {at} and could mend almost everything.
{f} took @ {tool}, a drop of oil and a lot of patience. | They sat down {at} and worked {adv} until the stars came out. | {f} \
looked at it from all sides, hummed {adv} and fetched @ {tool}.
Bit by bit the pieces came together again. | First it rattled, then it squeaked, and then it was whole. | Once it slipped and \
once it cracked, but they did not lose courage.
In the end {t} was better than new. | At last {t} was whole, and only a thin line showed where it had been broken. | "There!" \
said {f}. And indeed, {t} was as good as new.
"How can I thank you?" asked {h}. "Teach somebody else," said {f}. | {h} baked @ {cake} for {f} to say thank you. | Since then \
{h} never throws anything away without a second look.

{H} did not know what to give {F} for a birthday. | {Time}, {H} was invited to the birthday of {F}. | "I have no present \
yet," thought {H}, "and tomorrow is the birthday of {F}."
{S} looked around {adv} and saw {T} on the shelf. | {S} owned only one precious thing: {T}. | {S} went {to} and saw {T} at a \
market stall.
"It is {adj}, and it will make {f} happy," {s} thought. | It was not easy to give it away, for {s} loved it dearly. | {S} \
wrapped it in {colour} paper and tied it with a string.
On the way {s} slipped in the {wx}, and the parcel rolled down the hill. | On the way a goat ate the paper, so {t} had to come \
without it. | {S} carried the parcel {adv} through the {wx}.
When {f} saw {t}, there was a long silence. | {f} opened the parcel {adv}. | All the guests stopped talking when {f} unpacked \
{t}.
"This is just what I have always wanted!" said {f}. | "Oh," said {f}, "nobody has ever given me something so {marvel}." | "I had \
one just like it when I was small," said {f} {adv}.
They ate {cake} and played until the moon rose {at}. | {h} was {glad}, for giving is sweeter than getting. | And {t} got the \
best place in the whole house.

Everybody laughed at {T} that {H} carried around. | {H} had {T}, and the neighbours said it was good for nothing. | "What do you \
want with {T}?" people asked {H}.
"One day it will be useful," said {h}. | {h} did not mind and polished it {adv} every {day}. | "It is my treasure," {s} answered \
{adv}, and {s} walked on.
{Time}, there was a great storm {at}. | {Time}, there was trouble {at}. | {Time}, a loud cry for help came from {pl}.
{F} had fallen into a deep hole and could not get out. | {F} was sitting on a rock in the middle of the water. | {F} had lost \
the way in the {wx} and was calling {adv}.
Nobody knew what to do, but {h} had an idea and fetched {t}. | Then {h} came running with {t} under one arm. | "Make room!" \
called {h} and held up {t}.
With the help of {t}, {s} brought {f} back to safety. | {S} used {t} so cleverly that {f} was saved in a moment. | {S} pushed, \
{s} pulled, {s} held on to {t}, and soon {f} was safe.
After that nobody laughed at {t} any more. | "I will never laugh at it again," said {f}. | Now the whole village wanted to have \
such @ {ti}.

{H} and {F} both wanted {T}. | {H} and {F} found {T} {at} at the very same moment. | There was only one {ti}, but there were two \
who wanted it: {H} and {F}.
"I saw it first!" cried {h}. "No, I did!" cried {f}. | {h} pulled on one side, and {f} pulled on the other. | They quarrelled so \
loudly that the birds flew up from the trees.
All day they sat {at} and did not speak a word to each other. | {Time}, they met again {at}, and neither of them said hello. | In \
the end both of them sat {at} with {angry} faces.
Then an old owl said {adv}, "Why do you not take turns?" | Then {h} sighed and said, "Without you it is no fun anyway." | Then \
rain began to fall, and both had to hide under the same tree.
So {h} had {t} on {day}, and {f} had it on {day2}. | "You take it," said {h}. "No, you," said {f}, and both of them laughed. | \
They decided to keep {t} {at}, where both could use it.
And so {t} had two owners who were the best of friends. | A thing that is shared is not halved but doubled. | From then on {t} \
made both of them happy.

{Time}, {H} bought {T} from an old pedlar {at}. | {Time}, a pedlar {at} gave {H} {T} and winked. | In the attic {H} discovered {T} \
under a heap of dust.
"Be careful," said a voice. "It is not an ordinary {ti}." | It felt warm, and it hummed very softly. | On it was written in tiny \
letters: "Use me only once."
{h} did not believe in magic, but {s} took it {to} all the same. | {h} showed it to {F}, who laughed and said, "Try it!" | All \
week {s} thought about what to wish for.
When {h} touched {t} three times, the {wx} stopped, and everything was silent. | "I wish for {food}," {s} said as a joke, and \
there it was, hot and steaming. | {h} closed both eyes, held {t} tightly and made a wish.
Then {s} saw {F} sitting alone {at}, {sad} and cold. | But what is a wish worth when {F} is ill in bed? | But soon {h} thought \
of {F}, who needed help much more.
"I wish that {f} were happy," said {h}, and {t} glowed like a star. | {S} gave {t} to {f} and said, "You need it more than I \
do." | So {h} used the last bit of magic for {f}.
{f} laughed out loud, and {t} became an ordinary {ti} again. | Since then {t} has stood on the shelf, and it is quite silent. | \
The magic was gone, but the joy stayed.

{H} and {F} could not have been more different. | {H} went {to} every {day}, and so did {F}, but they had never spoken. | \
Everybody said that {H} and {F} would never be friends.
{h} was loud and quick, and {f} was quiet and slow. | {h} liked the morning best, and {f} liked the night. | {h} loved the sun, \
and {f} loved the {wx}.
{Time}, they met {at} because both had lost the way. | {Time}, a fallen {tree} blocked the path, and both of them had to wait. | \
{Time}, they had to share a boat across the river.
At first nobody said a word. | "It is @ {mild} day," said {h} at last, only to say something. | First they looked at each other \
{adv}.
Then {f} shared {food} with {h}. | Then {h} told a joke, and {f} laughed so hard that a hat fell into the water. | Then {f} \
began to sing {adv}, and {h} knew the same song.
They talked until the stars came out {at}. | Soon they found out that they both loved {fruits}. | By the time they reached the \
end of the path, they were friends.
If you go there today, you may see {h} and {f} side by side. | Since that day they meet every {day}. | Different friends make a \
rich life.

{H} boasted of being the fastest in the land. | "Nobody can beat me!" said {H} every {day}. | {H} challenged {F} to a race {to}.
{F} only smiled and said, "Let us see." | {F} was not fast, but {f} never gave up. | "I will race you," said {F} {adv}.
{Time}, they stood side by side at the start, and everybody cheered. | {Time}, the race began with the ring of a bell. | {Time}, \
all the neighbours came to watch.
{h} dashed off and was soon out of sight. | {h} ran like the wind and looked back only once. | At first {h} was far ahead.
But on the way {s} stopped to eat {fruits} and fell asleep. | But on the way {s} got stuck in the mud. | But {s} took the wrong \
path and had to turn around.
Step by step, {f} went on {adv}. | {f} kept going, one step after the other. | Meanwhile {f} walked past without a sound.
When {h} came to the finish, {f} was already there with a cup of {drink}. | So {f} won, and the crowd threw hats into the air. | \
{f} could have won alone, but went back to help, and they crossed the line together.
"You are slow, but you are wise," said {h}. | {h} never boasted again. | "Well done," said {h}, and {s} meant it.

{H} was afraid of the dark. | {H} was afraid of thunder. | {H} was afraid of deep water. | {H} was afraid of crossing the old \
bridge.
{S} told nobody about it, not even {p} mother. | Whenever it came near, {s} hid under a blanket. | {S} was ashamed of it and \
made many excuses.
{Time}, {F} noticed it. | {Time}, {F} found {o} trembling {at}. | {Time}, {F} asked {adv}, "What is the matter?"
"I am afraid too," said {f}, "but only a little, and less with you." | "Hold on to me," said {f}. "We will go slowly." | "Shall \
I tell you a secret?" said {f}. "Brave people are afraid as well."
Hand in hand they went {to}. | They took one step, and then another one. | They counted to ten and sang @ {adj} song.
And see, it was not as bad as {h} had thought. | {p} heart beat wildly, but {s} did not turn back. | In the middle {h} opened \
both eyes and laughed.
"I did it!" {s} cried. "We did it!" said {f}. | That night {h} slept without a single bad dream. | Courage grows when somebody \
stands beside you.

{Time}, {H} fell ill and could not try {T} {at}. | {Time}, {H} woke up with a sore throat and had to leave {T} {at}. | {Time}, {H} \
had a bad cold and could not take {T} {to}.
It was dull to lie there alone and count the spots on the ceiling. | Outside the others were playing, and {h} felt {sad}. | {S} \
sneezed {num} times before breakfast.
Then there was a knock, and in came {F} with a pot of soup and {t}. | Then {F} came in, shook off the {wx} and put {t} on the \
bed. | At noon {F} looked {adv} through the window and held up {t}.
{f} brought {fruits} and a book with pictures. | {f} told @ {adj} story about a king who could not whistle. | {f} made hot \
{drink} and sang all seven verses of a silly song.
{h} laughed so much that the fever got tired and left. | Slowly {p} cheeks grew pale, and then they grew rosy again. | By \
evening {h} felt much better.
That night {h} slept {deep}, with {t} beside the bed. | When {f} caught the cold a week later, {h} came with the soup. | "Tomorrow we will go {to} \
together," said {f}, and so they did.

{H} played a trick on {F}. | {Time}, {H} wanted to have some fun with {F}. | {Time}, {H} put salt into the {drink} of {F}.
{h} hid behind @ {tree} and giggled. | {h} could hardly wait to see what would happen. | "This will be so funny," thought {h}.
But {f} did not laugh at all and walked away {adv}. | But {f} slipped and fell {at}. | But {f} began to cry.
Now {h} did not find it funny any more. | All at once {h} felt {sad} and ashamed. | The fun was over, and {h} could not sleep \
that night.
{Time2}, {s} went to {f} with a basket of {fruits}. | {Time2}, {s} baked @ {cake} and put it in front of the door. | {Time2}, \
{s} wrote a letter with only one word in it: sorry.
"I am sorry," said {h}. "It was a mean trick." | "Will you forgive me?" asked {h} {adv}. | {h} looked at the ground and said, "I \
was wrong."
{f} thought about it and then smiled. "Let us play something that makes both of us laugh." | "I forgive you," said {f}, and they \
shook hands. | {f} broke the {cake} in two and gave {h} the bigger half.

{H} had never been {at}. | {H} had heard many tales about {pl}. | "Never go {to} alone," people used to tell {H}.
{Time}, {s} packed some {food} and set out {to}. | {Time}, {s} took {p} courage in both hands and went {to}. | {Time}, {s} \
wanted to see it with {p} own eyes.
The way was long, and the {wx} made it hard. | The path wound past {plants} and over @ {adj} bridge. | @ {bird} flew ahead as if \
it wanted to show the way.
When {s} came {to}, {s} stood still and held {p} breath. | At last {pl} lay before {o} in the morning light. | {pl} was bigger \
and more {marvel} than {s} had ever imagined.
There {s} met {F}, who knew every corner of it. | There sat {F} on a stone, eating {fruits}. | "Welcome," said {F}. "Visitors \
are rare here."
{f} showed {o} a hidden spring with water as clear as glass. | Together they looked for {plants} and listened to the silence. | \
They shared the {food} and told each other stories.
In the evening {h} went home with {plants} in {p} hat. | Since then {h} is never afraid of {pl}. | "I will come back," said {h}, \
and {s} kept {p} word.

Once there was no water left {at}. | {Time}, a great storm came over {pl}. | {Time}, something strange happened {at}: every \
sound had vanished.
{H} was the first who noticed it. | {H} lived nearby and was {worried}. | "Somebody must do something," said {H}.
{S} went {to} and looked at everything {adv}. | {S} ran from house to house and called for help. | {S} sat down on a stone and \
thought as hard as {s} could.
{F} came and brought @ {tool}. | "I have an idea," said {F}, "but I cannot do it alone." | First came {F}, then came the \
neighbours, and in the end all of them were there.
They dug, they carried and they sang until midnight. | All of them worked {adv}, the big ones and the small ones. | It took \
three days, and nobody complained.
Then {pl} was more {marvel} than ever before. | And see, everything was well again. | On the fourth day the sun rose over {pl}, \
and all was well.
They held a feast {at} with {food} and {cake}. | Even today people there tell the tale of {h} and {f}. | "Many hands make light \
work," said {h} and yawned.

{Time}, {H} and {F} went {to} to have a picnic. | {Time}, {H} said to {F}, "Let us go {to}!" | {H} and {F} planned a trip {to}.
They packed {food}, @ {cake} and two bottles of {drink}. | The basket was so heavy that they had to carry it together. | They \
forgot the blanket, but nobody minded.
The sun was shining {at}, and {plants} were everywhere. | It was {mild} {at}, and @ {bird} was singing. | When they arrived, \
they took off their shoes and ran {adv} through the grass.
All at once there was {rain}, and they ran under @ {tree}. | Then @ {bird} stole the {cake}, and both of them jumped up. | While \
they were playing, a family of ants carried off the {food}.
"What a pity!" said {f}. But {h} only laughed. | First they were {angry}, then they looked at each other and laughed. | "Let us \
make the best of it," said {h}.
They ate the {fruits} that grew there and told each other riddles. | So they danced {at} until their feet hurt. | A kind \
shepherd shared bread and cheese with them.
It was the best picnic they ever had. | On the way home they were wet, tired and happy. | "Next {day} we will go again," said \
{h}.

{H} had {na} {things} in a basket. | {Time}, {H} put {na} {things} on the table. | {H} collected {things} and had {na} of them.
{Time}, {F} came to visit and brought {nb} more. | Then {F} gave {o} {nb} more. | {at}, {h} found {nb} more.
"How many do I have now?" {s} asked. | {S} wondered how many there were now. | {S} laid all of them in a long row.
{h} counted {adv}: {na} and {nb} make {nc}. | "{na} and {nb} make {nc}," said {F} {adv}. | First {s} counted to {na}, then {s} \
counted {nb} more, and so {s} came to {nc}.
"So I have {nc} {things}!" said {h}. | Now there were {nc} {things} in all. | With {nc} {things} one can do a lot.
{S} gave every neighbour one of them, and everybody was {glad}. | They took them {to} and played until dark. | {S} put them back \
{adv}, so that none would get lost.

{H} wanted to share {na} {things} with {F}. | {Time}, {H} came {to} with a bag of {na} {things}. | There were {na} {things} on \
the plate of {H}.
But {nb} of them were bad and had to be thrown away. | But there was a hole in the bag, and {nb} of them fell out. | A cheeky \
{bird} came and carried off {nb} of them.
"Now there are only {nd} left," said {h}. | {S} counted {adv}: {na} take away {nb} makes {nd}. | So only {nd} {things} were \
left.
"That is enough for us," said {F}. | "Better {nd} than none," said {F}, and they both laughed. | {F} came and comforted {o}.
They sat down {at} and enjoyed what was left. | They kept the rest in @ {adj} box {at}. | In the evening they told the \
neighbours about it and laughed {adv}.
"Next time I will count twice," said {h}. | And it was @ {mild} day all the same. | Who can share is never poor.

{H} was proud of {T}, for there was no second one like it. | In the window of {H} stood {T} for everybody to see. | {H} would \
not let anybody touch {T}.
"May I try it?" asked {F}. "No!" said {h}. | {F} asked {adv} whether {t} could be borrowed for a day. | When {F} wanted to look \
at it, {h} hid it behind {p} back.
So {f} went away and did not come back. | From then on nobody came to visit any more. | Soon {h} sat alone with {t} and had \
nobody to talk to.
{Time}, {s} looked at {t} and found it a little boring. | {Time}, {h} noticed how quiet the house had become. | {Time}, {s} \
dreamed that {t} had grown so big that it filled the whole house.
"What is it good for, if nobody sees it?" {s} thought. | {S} felt {sad} and understood what was missing. | "I was wrong," {s} \
said aloud to the empty room.
So {s} carried {t} {to} and put it where all could use it. | {S} ran after {f} and called, "Come back! You may have it as long \
as you like." | {S} knocked at the door of {f} and held out {t}.
{f} was {glad}, and soon there was laughter again. | "Thank you," said {f}, "I will take good care of it." | They played with it \
until it was dark, and nothing broke.
A treasure that is locked away is only half a treasure. | Since then {t} has a scratch or two, and {h} likes every one of them. \
| Now {h} has @ {ti} and a friend.

{Time}, {H} heard a strange noise {at}. | {Time}, a knocking woke {H}. It came from outside. | Every night {H} heard something \
rattle {at}.
"Is it a ghost?" {s} wondered and pulled the blanket up to {p} chin. | {p} knees shook, but {s} lit a lamp. | {S} wanted to know \
what it was, and so {s} got up.
{S} called {F}, and together they went to have a look. | On the way {s} met {F}, who had heard it too. | "Come with me," {s} \
whispered to {F}. "I do not want to go alone."
Step by step they came closer, and the noise grew louder. | They held each other by the hand and tiptoed {to}. | "There!" said \
{f} and pointed into the dark.
It was only {T}, which the {wx} had knocked against the wall. | Behind a barrel they found {T}, and in it sat a tiny mouse. | \
And what was it? It was {T} that somebody had hung up and forgotten.
First they were silent, then they laughed until they had to sit down. | "So much fear because of @ {ti}!" said {f}. | {h} took \
{t} in both hands and shook {p} head.
They drank hot {drink} and went back to bed. | {h} put {t} into the cupboard, and the night was quiet at last. | Since then {h} \
greets {t} with @ {adj} bow whenever {s} sees it.

{H} was making {T}. | {H} wanted to build something with {p} own hands: {T}. | "I will make it myself," said {H} and began to \
work on {T}.
The first try was crooked, and the second one was worse. | {S} measured, {s} cut and {s} glued, but nothing would fit. | After \
an hour there was more of it on the floor than on the table.
{F} watched and asked, "May I give you some advice?" | "You are holding the {tool} upside down," said {F} {adv}. | {F} did not \
laugh but fetched a better {tool}.
"No, I can do it alone," said {h}, but {p} voice was {sad}. | {h} thought about it and then moved over to make room. | At first \
{h} was {angry}, but then {s} listened.
They worked {at} until the sun went down. | One of them held it, and the other one worked. | They tried it again and again, and \
each time it got a little better.
{Time2}, {t} was finished. | And then, all at once, {t} was finished, and it was {colour}. | When the last piece was in its \
place, both of them were silent.
It was not perfect, but no other {ti} in the world was so dear to {o}. | "We made it," said {h}. "Not I, but we." | {h} wrote \
two names on {t}: {p} own and that of {f}.

{H} sold {fruits} at the market, and {F} came with {T}. | {Time}, {H} saw {F}, who carried {T} {to}. | {H} met {F}, who had {T} \
and wanted to swap it.
"I will give you @ {cake} for it," said {h}. | "What do you want for it?" asked {h} {adv}. | {h} offered {fruits}, {drink} and a \
good story for it.
{f} thought for a while and then agreed. | "Done!" said {f}, and they shook hands. | "It is yours," said {f}, "but be careful \
with it."
{h} carried {t} home as if it were made of glass. | All the way home {h} hummed {adv}. | On the way home {h} held {t} so tightly \
that {p} fingers hurt.
But in the evening {s} saw that {f} was {sad}. | But that night {s} heard somebody sigh outside. It was {f}. | But {Time2} {f} \
stood in front of the door and looked at the ground.
"I miss it so much," said {f}. "It was a present from my sister." | "I should not have swapped it," said {f} {adv}. | "I only \
came to see whether it is well," said {f}.
{h} did not think twice and gave it back. | "Then take it," said {h}. "A thing belongs to those who love it most." | {h} fetched \
{t} and put it into the hands of {f}.
{f} came back with a whole basket of {fruits} to say thank you. | They have shared many things since then, and they never swap. \
| And the {cake}? They ate it together.

{H} could not sleep. | {Time}, {H} lay awake and looked at the ceiling. | The moon was shining so brightly that {H} could not \
sleep.
{S} counted sheep, but the sheep did not want to be counted. | {S} turned to the left, {s} turned to the right, but nothing \
helped. | {S} drank a cup of {drink} and tried it again.
At last {s} went outside, and there was {F}. | So {s} opened the window and saw {F} {at}. | Then {s} heard steps. It was {F}, \
who could not sleep either.
"What are you doing here?" asked {h}. "I am counting stars," said {f}. | "Are you awake as well?" asked {f} {adv}. | They nodded \
to each other and sat down side by side.
They looked at the sky, where @ {adj} star was falling. | {f} told the tale of @ {bird} that wanted to fly to the moon. | An owl \
called, the {tree} rustled, and it smelled of {plants}.
Slowly their eyes grew heavy. | In the middle of a sentence {h} began to snore. | "Good night," said {f}, but {h} was already \
asleep.
When the sun rose, they were still sitting there. | {Time2}, neither of them knew how they had come home. | Since then {h} likes \
to be awake for a little while at night.

{H} wanted to learn to swim, and nobody had time to teach {o}. | {H} could not whistle, and this made {o} {sad}. | {H} could not \
read, but {s} told nobody. | {H} wished to dance at the feast but did not know how.
"I will never learn it," {s} said. | {S} tried it in secret, but it would not work. | The others laughed at {o}, and so {s} gave \
up.
But {F} said, "I will teach you." | {Time}, {F} offered to help. | "It is easy," said {F}, "if you do it every day."
They practised {at}, every {day} and every {day2}. | {f} showed it {adv}, ten times and ten times more. | The first lesson was \
hard, and the second one was harder.
Often {h} wanted to stop, but {f} was patient. | {h} made a hundred mistakes, and {f} counted none of them. | "Once more," said \
{f} every time, and {h} tried once more.
Then, {Time}, it worked! | After a month {s} could do it a little, and after two months {s} could do it well. | And all at once \
{h} knew how to do it.
"You were a good teacher," said {h}. "You were a good pupil," said {f}. | {h} was so {glad} that {s} did it all day long. | \
Today {h} teaches others, and {s} is just as patient.

{H} and {F} wanted to put on a play {at}. | {H} and {F} were asked to sing at the summer feast. | {Time}, {H} and {F} decided to \
become famous.
They practised {adv} every {day}. | {h} was to be the king, and {f} was to be the dragon. | They needed costumes, so {f} cut up \
@ {colour} curtain.
But when the curtain rose, {h} forgot every single word. | But when they saw all the people, {h} began to tremble. | But then \
{h} stepped on a cloak and fell off the stage.
It was so quiet that one could hear a mouse sneeze. | Somebody in the first row began to giggle. | {p} cheeks turned as red as \
cherries.
Then {f} whispered the words into {p} ear. | Then {f} did a somersault, and the people clapped. | Then {f} began to hum, and {h} \
joined in {adv}.
After that everything went well, and in the end there were {num} rounds of applause. | The people thought it was part of the \
play and laughed until they cried. | At the end everybody threw {plants} onto the stage.
"Next time you will be the dragon," said {f}. | {h} bowed deeply, and {s} pulled {f} along by the hand. | And they were famous \
after all, at least {at}.

{H} found an old map, and on it {pl} was marked with a cross. | {Time}, {H} heard that a treasure was hidden {at}. | "There is a \
treasure {at}," people said, and {H} believed it.
{S} packed a spade, some {food} and a lamp. | {S} told nobody about it but {F}. | {S} asked {F} to come along, for two can dig \
faster.
{Time}, {h} and {F} went {to}. | They walked for {num} hours, and then they were there. | It was dark when they came {to}.
They dug and dug, and the hole grew deeper. | They knocked at every stone and looked behind every {tree}. | "A little to the \
left," said {f}. "A little to the right," said {h}.
They found an old boot, a rusty pot and @ {adj} bone. | Then the {tool} hit something hard. It was a wooden box. | At midnight \
they pulled a box out of the ground.
In the box was a letter: "The treasure is the friend who digs with you." | In it there were only {plants}, dry and pressed, and \
a picture of two friends. | There was no gold in it, but there were seeds for a whole garden.
They laughed and filled the hole again. | Today {plants} grow {at}, and everybody enjoys them. | "It was a good treasure hunt," \
said {h}, and {f} nodded.

{H} lost the way {at}. | {Time}, {H} wanted to take a short cut and got lost {at}. | The {wx} was so thick {at} that {H} could \
not see {p} own feet.
{S} called for help, but only the echo answered. | {S} went in a circle and came to the same {tree} three times. | It was \
getting dark, and {s} was {worried}.
Then {s} saw a small light. | Then @ {bird} landed on a branch and looked at {o}. | Then {s} heard somebody sing {adv}.
It was {F}, who was on the way home. | It was {F} with a lamp. | There sat {F} by a little fire and cooked {drink}.
"You are not lost," said {f}. "You are here, and so am I." | "Sit down and get warm," said {f}. "I know the way." | "Come," said \
{f} {adv}, "it is not far."
They shared the last bit of {food}. | On the way {f} showed {o} how one can read the stars. | They talked so much that the way \
seemed short.
Since then {h} never leaves {pl} without thinking of that light. | {h} drew a map of {pl}, so that nobody would get lost there \
again. | At home {h} put a lamp into the window for others who had lost their way.

Nobody wanted to go {to} any more. | {pl} had become grey and sad. | People said that {pl} was @ {adj} place, but nobody took \
care of it.
{H} saw this and was {sad}. | "It used to be so beautiful here," said {H}. | {H} could not get it out of {p} head.
{Time}, {s} began to sweep and to plant {plants} there. | {Time}, {s} came with a broom, a bucket and a song. | {Time}, {s} \
painted a bench {colour} and sat down on it.
{F} passed by and asked, "What are you doing?" | "That is useless," said {F}. But {F} stayed and watched. | {F} brought @ {tool} \
and helped without many words.
On the next day there were four of them, and then ten. | Children came and hung up paper lanterns. | Somebody brought a fiddle, \
and somebody brought @ {cake}.
Soon {pl} was full of laughter. | On {day} there was a great feast {at}. | Even @ {bird} came back and built its nest there.
"See," said {h} to {f}, "somebody only had to begin." | And the {colour} bench is still there, and on it there is room for two. \
| Now everybody says that there is no nicer place in the little world.

{H} baked {na} little cakes for the feast. | {Time}, {H} picked {na} {fruits} in the garden. | {H} wanted to give a party and \
bought {na} paper lanterns.
{F} made {nb} more of them. | "I have {nb} more," said {F}. | Then {F} came {adv} with {nb} more.
They put all of them together and began to count. | "Is that enough?" asked {h}. | {h} scratched {p} head and reckoned {adv}.
"{na} and {nb} make {nc}," said {f}. | {na} and {nb} make {nc}, so there were {nc} in all. | After a while {h} said, "There are \
{nc}, for {na} and {nb} make {nc}."
"And how many guests will come?" asked {f}. "I forgot to invite them," said {h}. | That was one for each guest, and not a single \
one was left over. | They were so proud that they counted them all over again.
So they ran {to} and invited everybody they met. | The feast {at} was so {marvel} that people still talk about it. | In the \
evening they sang {at}, and nobody was {sad}.
"""
