"""What is true in the little world: tables of towns, jobs, animals and things, and how each fact is asked and told.

A row of a table is `name|value|value|...` in the order of its header. In a phrase {n} is the name, {v} the value,
{s} {o} {p} are he, him, his (or she, her, her), {an} is the name with its article, {ns} its plural.
"""

TOWNS = ("river hill market known sight", """
Alderbrook|the Alder|Kite Hill|Monday|its apple cakes|an old clock tower
Appleford|the Pippin|Orchard Hill|Tuesday|its sweet cider|a red wooden bridge
Ashmoor|the Dapple|Raven Hill|Wednesday|its warm wool|a ring of standing stones
Birchley|the Willet|Badger Hill|Thursday|its birch brooms|a little railway station
Briarton|the Thorn|Bonfire Hill|Friday|its wild roses|a ruined castle
Cloverdale|the Clover|Honey Hill|Saturday|its yellow butter|a round white dairy
Copperhill|the Ember|Copper Hill|Monday|its shining kettles|a tall brick chimney
Dunmere|the Dun|Heron Hill|Tuesday|its smoked eels|a lake with an island
Elmstead|the Elmwater|Beacon Hill|Wednesday|its carved chairs|the oldest elm of all
Fernwick|the Frond|Hollow Hill|Thursday|its green glass|a waterfall in the wood
Foxhollow|the Russet|Foxglove Hill|Friday|its clever weavers|a cave with painted walls
Goldmarsh|the Reed|Lantern Hill|Saturday|its reed baskets|a golden weathercock
Harrowby|the Harrow|Plough Hill|Monday|its brown bread|a windmill with six sails
Hazelton|the Nutbrook|Squirrel Hill|Tuesday|its hazelnut chocolate|a bandstand in the park
Honeyfield|the Amber|Beehive Hill|Wednesday|its dark honey|a garden of sunflowers
Ivywell|the Ivy|Chapel Hill|Thursday|its clear water|a deep stone well
Kettleby|the Kettle|Steam Hill|Friday|its strong tea|a museum of teapots
Larkham|the Lark|Singing Hill|Saturday|its big choir|a theatre with a blue roof
Mapleford|the Maple|Sugar Hill|Monday|its maple syrup|an avenue of maple trees
Millbrook|the Mill Stream|Miller's Hill|Tuesday|its fine flour|a water wheel
Nettlecombe|the Nettle|Goose Hill|Wednesday|its nettle soup|a crooked church
Oakhaven|the Acorn|Oak Hill|Thursday|its sailing ships|a lighthouse with a red lamp
Pebblewick|the Pebble|Gull Hill|Friday|its striped pebbles|a pier with a carousel
Quillport|the Quill|Inkwell Hill|Saturday|its printed books|a library with a glass dome
Rosemere|the Petal|Summer Hill|Monday|its rose soap|a maze of hedges
Silverlea|the Silver|Moon Hill|Tuesday|its silver spoons|a fountain with a swan
Thistlemoor|the Thistle|Donkey Hill|Wednesday|its blue cheese|a long stone wall
Willowby|the Willow|Lamb Hill|Thursday|its cricket bats|a green with a duck pond
""")

JOBS = ("does works tool", """
baker|bakes bread and rolls|in a bakery|a rolling pin
barber|cuts hair and beards|in a barber's shop|a pair of scissors
beekeeper|looks after bees|beside the beehives|a smoker
blacksmith|makes horseshoes and gates|in a forge|a hammer and an anvil
boatbuilder|builds wooden boats|in a boatyard|an adze
bookbinder|binds the pages of books|in a bindery|a bone folder
butcher|sells meat and sausages|in a butcher's shop|a cleaver
carpenter|makes tables and doors|in a workshop full of wood|a saw
carver|carves spoons and animals|on a bench in the yard|a carving knife
chimney sweep|cleans chimneys|on the rooftops|a long brush
clockmaker|mends clocks and watches|in a clock shop|a tiny screwdriver
cobbler|mends shoes and boots|in a cobbler's shop|an awl
composer|writes music|at a grand piano|a sheet of music paper
cook|cooks soups and stews|in the kitchen of an inn|a ladle
dentist|takes care of teeth|in a bright white room|a small round mirror
doctor|makes sick people well|in a surgery|a stethoscope
dressmaker|sews dresses and gowns|in a room full of cloth|a needle and thread
farmer|grows wheat and potatoes|in the fields|a tractor
ferry keeper|takes people across the river|on a ferry|a long pole
firefighter|puts out fires|at the fire station|a hose
fisher|catches fish|on a fishing boat|a net
florist|sells bunches of flowers|in a flower shop|a pair of snips
gardener|plants flowers and trees|in a park|a spade
glassblower|blows vases and bottles|in a glass house|a long pipe
goldsmith|makes rings and crowns|in a little gold workshop|a pair of pincers
guide|shows visitors the sights|in the old streets|a folded map
juggler|juggles balls and clubs|in a circus|five coloured balls
lighthouse keeper|lights the lamp for ships|in a lighthouse|an oil can
librarian|lends books|in a library|a card index
magician|does tricks with cards and hats|on a stage|a magic wand
mason|builds walls and arches|on a building site|a trowel
miller|grinds corn into flour|in a mill|a millstone
nurse|takes care of patients|in a hospital|a thermometer
painter|paints pictures|in a studio|a paintbrush
pilot|flies people over the hills|in a little aeroplane|a compass
plumber|mends pipes and taps|under the sinks of the town|a wrench
letter carrier|brings letters and parcels|along the streets|a big bag
potter|makes cups and bowls of clay|in a pottery|a wheel
printer|prints posters and newspapers|in a printing house|a press
sailor|sails to far islands|on a ship|a sextant
shepherd|looks after sheep|on the hillside|a crook
tailor|makes coats and trousers|in a tailor's shop|a tape measure
teacher|teaches children|in a school|a piece of chalk
vet|makes sick animals well|in an animal clinic|a soft bandage
weaver|weaves rugs and blankets|in a weaving shed|a loom
""")

ANIMALS = ("sound home food young legs", """
ant|rustles|in an anthill|crumbs|a larva|six
badger|grunts|in a sett|worms|a cub|four
bat|squeaks|in a cave|moths|a pup|two
bear|growls|in a den|honey|a cub|four
beaver|slaps its tail|in a lodge|bark|a kit|four
bee|buzzes|in a hive|nectar|a grub|six
camel|grunts|in the desert|dry shrubs|a calf|four
cat|meows|in a basket|fish|a kitten|four
chicken|clucks|in a henhouse|corn|a chick|two
cow|moos|in a barn|grass|a calf|four
cricket|chirps|in the tall grass|leaves|a nymph|six
crow|caws|in a treetop|seeds|a fledgling|two
deer|bellows|in the forest|twigs|a fawn|four
dog|barks|in a kennel|bones|a puppy|four
dolphin|whistles|in the warm sea|squid|a calf|no
donkey|brays|in a shed|thistles|a foal|four
dove|coos|in a dovecote|grain|a squab|two
duck|quacks|on a pond|water weeds|a duckling|two
eagle|screams|in an eyrie|rabbits|an eaglet|two
elephant|trumpets|in the savanna|branches|a calf|four
fox|yelps|in an earth|mice|a cub|four
frog|croaks|in a marsh|flies|a tadpole|four
goat|bleats|on a mountain farm|bushes|a kid|four
goose|honks|in the farmyard|clover|a gosling|two
hamster|squeals|in a cage with a wheel|sunflower seeds|a pup|four
hare|thumps|in a form|herbs|a leveret|four
hedgehog|snuffles|in a heap of leaves|slugs|a hoglet|four
horse|neighs|in a stable|hay|a foal|four
kangaroo|hisses|in the outback|shrubs and grass|a joey|two
lion|roars|in the hot plains|antelopes|a cub|four
mole|shuffles|in a tunnel|earthworms|a pup|four
monkey|chatters|in the jungle|bananas|an infant|two
mouse|peeps|in a hole in the wall|cheese|a pinkie|four
otter|chirrups|in a holt|crayfish|a whelp|four
owl|hoots|in a hollow tree|voles|an owlet|two
parrot|talks|in the rainforest|nuts|a chick|two
peacock|shrieks|in the palace garden|berries|a peachick|two
penguin|trumpets loudly|on the ice|krill|a chick|two
pig|oinks|in a sty|potato peel|a piglet|four
pony|whinnies|in a paddock|oats|a foal|four
rabbit|stamps its foot|in a burrow|carrots|a bunny|four
rat|squeals softly|in a cellar|scraps|a pup|four
raven|croaks deeply|on a cliff|beetles|a nestling|two
robin|sings|in a hedge|little worms|a nestling|two
seal|barks hoarsely|on the rocks by the sea|herring|a pup|no
sheep|bleats softly|in a fold|turf|a lamb|four
snail|makes no sound|in its shell|lettuce|a hatchling|no
snake|hisses softly|under a stone|eggs|a snakelet|no
spider|makes no noise|in a web|gnats|a spiderling|eight
squirrel|chatters and clicks|in a drey|acorns|a kitten|four
stork|clatters its bill|on a chimney|frogs|a nestling|two
swan|hisses and snorts|by the lake|pondweed|a cygnet|two
tiger|roars and growls|in the deep jungle|wild boar|a cub|four
toad|croaks quietly|under a flowerpot|snails|a toadlet|four
tortoise|hisses quietly|in the rock garden|dandelions|a hatchling|four
turtle|grunts quietly|in the lagoon|jellyfish|a hatchling|four
whale|sings under the water|in the deep sea|plankton|a calf|no
wolf|howls|in a cold forest|elk|a pup|four
woodpecker|drums|in a hole in a tree|grubs|a nestling|two
""")

THINGS = ("colour use place", """
acorn|brown|to grow an oak|under an oak
anchor|grey|to hold a ship still|on a ship
apple|red|to make a pie|in a fruit bowl
apron|white|to keep clothes clean|on a hook in the kitchen
axe|silver|to chop wood|in the woodshed
ball|red|to play in the park|in the garden
balloon|yellow|to decorate a party|on a string
banana|yellow|to make a milkshake|in a bunch
basket|brown|to carry eggs|by the back door
bell|golden|to call the children|in the bell tower
blanket|blue|to keep warm|on the bed
boat|green|to cross the lake|at the jetty
book|brown|to read stories|on the bookshelf
boot|black|to walk through mud|in the hall
bottle|green|to keep juice|in the cellar
bowl|blue|to eat soup|on the kitchen shelf
bridge|grey|to cross the river|over the river
broom|yellow|to sweep the floor|in the broom cupboard
brush|brown|to paint a fence|in a paint pot
bucket|grey|to fetch water|beside the well
button|white|to close a coat|in a button box
cabbage|green|to cook a stew|in the vegetable patch
candle|white|to light a room|on the windowsill
carrot|orange|to feed a rabbit|in the ground
cart|brown|to carry hay|in the farmyard
chair|brown|to sit down|at the table
cherry|red|to bake a cake|in the cherry tree
clock|golden|to tell the time|on the mantelpiece
coat|blue|to stay dry|on the coat stand
compass|silver|to find the way|in a sailor's pocket
crown|golden|to crown a king|in a treasure room
cucumber|green|to make a salad|in the greenhouse
cup|white|to drink tea|in the cupboard
cushion|purple|to rest a head|on the sofa
drum|red|to beat a march|in the music room
feather|grey|to fill a pillow|in a nest
flag|blue|to greet the ships|on a flagpole
flute|silver|to play a tune|in a long case
fork|silver|to eat potatoes|in the drawer
glove|black|to warm a hand|in a coat pocket
grape|purple|to make wine|on the vine
guitar|brown|to play songs|against the wall
hammer|grey|to knock in a nail|in the toolbox
hat|black|to keep off the sun|on the hat stand
jar|clear|to keep jam|in the pantry
jug|white|to pour milk|on the breakfast table
kettle|copper|to boil water|on the stove
key|golden|to open a door|under the doormat
kite|red|to fly in the wind|in the attic
knife|silver|to slice bread|on the bread board
ladder|brown|to climb onto a roof|behind the barn
lamp|yellow|to read at night|beside the bed
lantern|golden|to see in the dark|above the gate
leaf|green|to make shade|on a branch
lemon|yellow|to make lemonade|in the lemon tree
letter|white|to send news|in the letterbox
map|yellow|to plan a journey|in a leather tube
mirror|silver|to look at a face|above the washstand
needle|silver|to sew a seam|in a pincushion
nest|brown|to hatch eggs|high in a tree
net|green|to catch fish|on the quay
notebook|blue|to write down ideas|in a school bag
onion|brown|to cook a soup|on a long string
orange|orange|to make juice|in a crate
paddle|brown|to row a canoe|in the boathouse
pear|green|to make a tart|in the orchard
pebble|grey|to skip over the water|on the beach
pen|blue|to write a letter|in the pencil case
pencil|yellow|to draw a picture|behind the teacher's ear
piano|black|to play a waltz|in the concert hall
picture|blue|to decorate a wall|in the picture gallery
pillow|white|to sleep well|at the head of the bed
plate|white|to serve a meal|in the dish rack
plum|purple|to make jam|in a wooden box
pot|black|to cook porridge|over the fire
pumpkin|orange|to carve a lantern|in the pumpkin field
ring|golden|to wear on a finger|in a velvet box
rope|brown|to tie a boat|in the shed
rose|pink|to give to a friend|in the rose bed
ruler|yellow|to draw a straight line|on the school desk
saddle|brown|to ride a horse|in the tack room
scarf|green|to warm a neck|in a drawer of the wardrobe
shell|pink|to hear the sea|in the sand
shovel|grey|to dig a hole|next to the compost
sledge|red|to slide down a hill|in the snow
spoon|silver|to stir tea|beside the plate
stamp|red|to post a letter|at the post office
star|silver|to steer by at night|in the sky
stool|brown|to milk a cow|in the milking shed
strawberry|red|to make a summer pudding|in the strawberry field
table|brown|to have dinner|in the dining room
teapot|blue|to make tea|on the tea tray
telescope|black|to look at the moon|on the roof
tent|orange|to camp in the woods|in a rucksack
ticket|pink|to ride a train|at the ticket office
tomato|red|to make a sauce|on the vegetable stall
torch|black|to explore a cave|in the rucksack pocket
trumpet|golden|to wake the village|in the bandstand
umbrella|black|to keep off the rain|in the umbrella stand
vase|blue|to hold flowers|in the middle of the table
violin|brown|to play a dance|in a violin case
wagon|blue|to pull children along|in the coach house
watch|silver|to be on time|on a wrist
wheel|grey|to mend a wagon|at the wheelwright's
whistle|silver|to call a dog|on a chain
window|clear|to let in light|in the wall
""")

FOODS = """apple pie|baked beans|banana bread|beetroot salad|blackberry jam|bread and butter|buttered toast|carrot cake
cauliflower cheese|cheese on toast|cherry tart|chicken soup|chocolate pudding|cinnamon buns|corn on the cob|cucumber sandwiches
fish pie|fried eggs|fruit salad|garlic bread|gingerbread|grilled trout|honey cake|hot porridge|jam doughnuts|leek soup
lemon cake|lentil stew|mashed potatoes|mushroom risotto|noodle soup|oat biscuits|onion rings|peach cobbler|pea soup|plum dumplings
potato pancakes|pumpkin soup|raspberry ice cream|rhubarb crumble|rice pudding|roast chestnuts|spinach omelette|tomato soup
vanilla ice cream|vegetable curry|walnut bread""".replace("\n", "|").split("|")

HOBBIES = """acting|baking|birdwatching|bowling|camping|canoeing|climbing|collecting stamps|cycling|dancing|drawing|embroidery
fencing|fishing|flying kites|folk singing|gardening|hiking|ice skating|juggling|knitting|making candles|making puppets|origami
painting|picking mushrooms|playing cards|playing chess|playing marbles|playing the drums|playing the flute|playing the guitar
playing the harp|playing the piano|pottery|reading|riding|rowing|running|sewing|skating|skiing|sledging|star gazing|swimming
telling jokes|whittling|wrestling|writing poems|yoga""".replace("\n", "|").split("|")

COLOURS = "red blue green yellow orange purple pink brown black white grey gold silver turquoise violet".split()
MONTHS = "January February March April May June July August September October November December".split()
PETS = """cat dog rabbit hamster parrot pony goat tortoise duck goose donkey hedgehog frog snail mouse rat owl lamb crow
pig""".split()
