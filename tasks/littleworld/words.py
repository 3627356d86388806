"""The words of the little world: names, nouns by theme, verbs, adjectives, adverbs. Lists only, no logic."""

WOMEN = """Ada Agnes Alma Amber Anna Beth Bonnie Clara Cora Daisy Della Dora Edith Ella Elsie Emma Esther Eva Fern
Flora Freya Gemma Greta Hattie Heidi Helga Holly Ida Ines Iris Isla Ivy Jenny Jill Josie Juno Kara Katie Lena Lily
Lola Lucy Mabel Martha Mina Mira Molly Nadia Nell Nora Olive Opal Pearl Polly Rosa Ruby Sadie Tilly""".split()

MEN = """Abel Adam Albert Alfie Amos Anton Arlo Arthur Basil Ben Bruno Caleb Carl Cedric Cyrus Dan Dexter Edgar Elias
Emil Ernest Ezra Felix Finn Frank Fred George Gus Harold Harvey Henry Hugo Ian Isaac Ivan Jack Jasper Joel Jonas Karl
Kurt Leo Liam Lorenz Luke Magnus Max Milo Moses Ned Noah Oscar Otto Owen Percy Ralph Rufus Theo""".split()

# People nobody in the little world has heard of: users' own names, and questions that must be refused.
STRANGERS = """Aaron Abigail Adele Adrian Agatha Aisha Alan Alba Alice Alicia Alina Alison Alvin Amanda Amelia Amir Amy
Andrea Andrew Angela Angus Anita Annika Antonia Archie Ariana Arnold Astrid Audrey August Aurora Barbara Barney Beatrice
Becky Belinda Bella Benedict Bernard Bertha Bianca Bill Blake Bob Boris Brandon Brenda Brian Bridget Bruce Caitlin Calvin
Camila Carla Carmen Carol Caroline Casper Cecilia Celia Chad Charles Charlotte Chloe Chris Christa Cindy Claire Claude
Colin Connor Conrad Craig Cynthia Damian Daniel Daphne Darren David Dean Deborah Dennis Derek Diana Diego Dominic Donald
Donna Doris Dorothy Douglas Duncan Dylan Edmund Edward Eileen Elaine Eleanor Elena Elijah Elizabeth Ellen Elliot Emily
Enzo Eric Erica Erwin Ethan Eugene Eve Fabian Faith Farah Fatima Fiona Florence Frances Frida Gabriel Gavin Georgia Gerald
Gilbert Gina Giulia Glenn Gloria Gordon Grace Graham Gregory Guido Gustav Gwen Hanna Hannah Hans Harriet Harry Hassan
Hazel Heather Hector Helen Herbert Hilda Homer Horace Howard Hubert Igor Ingrid Irene Irma Isabel Ismael Jacob Jade James
Jan Jane Janet Jared Jason Jean Jeremy Jerome Jessica Joan Joanna Johanna John Jonathan Jordan Jorge Joseph Joshua Joyce
Juan Judith Judy Julia Julian Juliet Justin Karen Karim Katrin Keith Kelly Kenneth Kevin Kim Kirsten Klaus Kyle Lara Larry
Laura Lauren Lawrence Leah Leila Leonard Leonie Leroy Leslie Lewis Linda Lionel Lisa Logan Lois Louis Louise Lucas Lucia
Ludwig Luis Lydia Lynn Maggie Malcolm Manuel Marco Marcus Margaret Maria Marian Marie Marina Mario Marion Marius Mark
Marta Martin Mary Mason Matilda Matthew Maurice Maya Megan Mei Melissa Mercy Michael Michelle Miguel Mildred Miles Miriam
Mohammed Monica Morgan Morris Muriel Nancy Naomi Natalie Nathan Neil Nelson Nicholas Nicole Nigel Nina Norbert Norma
Norman Oliver Olivia Olga Omar Orlando Oswald Pablo Pamela Patricia Patrick Paul Paula Pedro Peggy Peter Petra Philip
Phoebe Priya Quentin Rachel Raj Ramona Raymond Rebecca Regina Reuben Richard Rita Robert Robin Rodney Roger Roland Roman
Ronald Rory Rosalind Rosemary Roxanne Roy Rudolf Rupert Russell Ruth Ryan Sabrina Sally Salma Sam Samantha Samuel Sandra
Sara Sarah Scott Sean Sebastian Selma Sharon Sheila Shirley Sidney Sigrid Silvia Simon Sofia Sonia Sophie Stanley Stella
Stephen Steve Stuart Susan Sven Sylvia Tamara Tanya Tara Teresa Terry Thelma Thomas Tim Tina Toby Tom Tomas Tony Tracy
Trevor Ursula Valentin Valerie Vanessa Vera Veronica Victor Victoria Vincent Viola Violet Virginia Vivian Wallace Walter
Wanda Warren Wayne Wendy Wilbur Wilfred William Willow Winston Xavier Yasmin Yolanda Yusuf Yvonne Zach Zara Zelda Zoe
Zoltan""".split()

PET_NAMES = """Acorn Amigo Apple Bandit Barley Beans Biscuit Blossom Bobbin Bramble Bubbles Bumble Button Candle Captain
Caramel Cashew Cinder Clover Coco Comet Cookie Cosmo Cricket Crumpet Cuddles Dash Diamond Digger Dizzy Domino Doodle
Dumpling Echo Ember Fidget Fizz Flash Fluff Freckles Fudge Gingersnap Giggles Gizmo Goblin Goldie Gravy Hobnob Hopper
Inky Jelly Jester Jingle Jumper Kipper Lightning Lollipop Lucky Mango Maple Marble Mittens Mocha Moonbeam Muffin Mustard
Nibbles Noodle Nugget Nutmeg Oreo Paddle Pancake Patch Peanut Pebbles Pepper Pickle Pinecone Pippin Pixie Pocket Popcorn
Poppet Puddle Pudding Pumpkin Quacker Raisin Rascal Ripple Rocket Rusty Saffron Scamp Scout Shadow Skipper Smoky Snowball
Socks Sparkle Speckles Splash Spud Squeak Stripes Sultan Sunny Tango Teapot Tickle Tiger Tinsel Toffee Treacle Truffle
Tulip Tumble Twiggy Twinkle Velvet Waffle Whiskers Whisper Wiggles Winkle Wizard Yodel Zigzag Ziggy""".split()

# title of a theme -> its nouns (singular, countable); the title fits after "is the name of" and "three"
THEMES = {name: nouns.split() for name, nouns in {
    "a tree": "alder apricot ash aspen beech birch cedar chestnut cypress elder elm fir hawthorn hickory larch linden "
              "magnolia maple oak palm pine poplar rowan spruce sycamore walnut willow yew",
    "a flower": "aster bluebell buttercup carnation crocus daffodil dahlia daisy dandelion foxglove geranium hyacinth iris "
                "jasmine lavender lilac lily lupin marigold orchid pansy peony petunia poppy primrose rose snowdrop "
                "sunflower thistle tulip violet",
    "a bird": "blackbird bluebird bullfinch canary chaffinch crane crow cuckoo dove eagle falcon finch gull hawk heron "
              "jackdaw jay kestrel kingfisher lark linnet magpie nightingale nuthatch oriole ostrich parrot partridge "
              "peacock pelican pheasant pigeon puffin quail raven robin sparrow starling stork swallow swan swift "
              "thrush vulture woodpecker wren",
    "a fruit": "apple apricot avocado banana blackberry blueberry cherry coconut cranberry currant date fig gooseberry "
               "grape grapefruit kiwi lemon lime mango melon mulberry nectarine orange papaya peach pear pineapple plum "
               "pomegranate quince raspberry strawberry tangerine",
    "a vegetable": "artichoke aubergine bean beetroot cabbage carrot cauliflower celery chard courgette cucumber leek "
                   "lentil lettuce marrow mushroom onion parsnip pea potato pumpkin radish shallot spinach squash "
                   "sprout swede tomato turnip",
    "something to wear": "apron bonnet boot bracelet cap cape cardigan cloak coat dress gown hat helmet hood jacket jumper "
                         "kilt mitten necklace ribbon robe sandal sash scarf shawl shirt shoe skirt slipper sock sweater "
                         "tunic uniform veil vest waistcoat",
    "a tool": "anvil axe bellows chisel crowbar drill file gimlet hammer hatchet hoe knife ladder lever mallet nail needle "
              "pickaxe pitchfork plane plough pulley rake rasp saw screw screwdriver scythe shovel sickle spade spanner "
              "thimble tongs trowel wedge wheelbarrow wrench",
    "something in the kitchen": "basin bottle bowl bucket cauldron colander corkscrew cup dish fork funnel grater grill jar "
                                "jug kettle ladle mug napkin oven pan pitcher plate pot saucepan saucer sieve spatula "
                                "spoon stove strainer teapot thermos toaster tray whisk",
    "a piece of furniture": "armchair bed bench bookcase bunk cabinet chair chest cot couch cradle cupboard desk dresser "
                            "drawer footstool hammock lamp mattress mirror piano rug screen shelf sideboard sofa stool "
                            "table wardrobe",
    "a musical instrument": "accordion bagpipe banjo bassoon bell bugle cello clarinet cornet cymbal drum fiddle flute "
                            "gong guitar harmonica harp horn lute lyre mandolin oboe organ recorder tambourine "
                            "triangle trombone trumpet tuba ukulele viola violin whistle xylophone zither",
    "a toy": "balloon ball blocks doll dollhouse drum hoop jigsaw kaleidoscope kite marble mask pinwheel puppet puzzle "
             "rattle rocking-horse scooter skateboard sledge slingshot spinning-top swing teddy train yo-yo",
    "a vehicle": "ambulance balloon barge bicycle boat bus canoe carriage cart coach ferry gondola helicopter kayak lorry "
                 "raft rowboat sailboat ship sleigh steamer submarine taxi tractor trailer train tram truck tugboat van "
                 "wagon yacht",
    "a building": "abbey bakery bank barn barracks cabin castle cathedral chapel church cottage dairy factory farmhouse "
                  "forge garage granary greenhouse hall hospital hotel house hut inn kennel library lighthouse mansion "
                  "mill museum palace pavilion post-office school shed shop stable temple tent theatre tower windmill "
                  "workshop",
    "a part of the body": "ankle arm back beard belly cheek chest chin ear elbow eye eyebrow eyelash finger fist foot "
                          "forehead hand heel hip knee knuckle leg lip mouth neck nose palm rib shoulder skin stomach "
                          "thigh throat thumb toe tongue tooth waist wrist",
    "an insect": "ant aphid bee beetle bumblebee butterfly caterpillar cicada cockroach cricket dragonfly earwig firefly "
                 "flea fly gnat grasshopper hornet ladybird locust mayfly midge mosquito moth termite wasp weevil",
    "a fish": "anchovy bream carp cod eel flounder goldfish haddock halibut herring mackerel minnow perch pike plaice "
              "pollock salmon sardine shark sole stickleback sturgeon swordfish trout tuna turbot",
    "a place in nature": "bay beach bog brook canyon cave cavern cliff coast creek desert dune field fjord forest glacier "
                         "glade gorge grove harbour heath hill hillside island jungle lagoon lake marsh meadow moor "
                         "mountain pasture peninsula plain pond prairie ravine reef river rock shore slope spring stream "
                         "swamp thicket tundra valley volcano waterfall wood",
    "a kind of weather": "blizzard breeze cloudburst downpour drizzle drought fog frost gale hail haze heatwave hurricane "
                         "mist monsoon rain rainbow sleet snow snowfall snowstorm storm sunshine thaw thunder "
                         "thunderstorm tornado whirlwind wind",
    "something to eat": "bagel biscuit bread broth bun burger butter cake casserole cheese cheesecake chocolate "
                        "crumpet curry custard dumpling gravy ham honey jam jelly marmalade muffin noodle omelette "
                        "pancake pastry pie pizza porridge pretzel pudding rice roll salad sandwich sausage scone soup "
                        "stew stuffing tart toast toffee waffle yoghurt",
    "a drink": "cider cocoa coffee cordial cream juice lemonade milk milkshake punch smoothie squash tea water",
    "a colour": "amber beige black blue bronze brown copper cream crimson emerald gold green grey indigo ivory khaki "
                "lavender lilac maroon mauve olive orange pink plum purple red ruby rust scarlet silver tan teal "
                "turquoise violet white yellow",
    "a material": "bamboo brass brick canvas cardboard cement clay concrete copper cork cotton felt flannel fur glass gold "
                  "granite iron lace lead leather linen marble metal mud nylon paper pewter plaster plastic porcelain "
                  "rubber sand satin silk silver slate steel stone straw tin velvet wax wicker wood wool",
    "a feeling": "anger boredom calm cheer courage curiosity delight envy excitement fear fright glee gratitude grief "
                 "guilt happiness hope jealousy joy kindness loneliness longing love patience pity pride relief sadness "
                 "shame shyness sorrow surprise sympathy thrill trust wonder worry",
    "something in the sky": "aurora cloud comet crescent dawn dusk eclipse horizon lightning meteor moon moonlight planet "
                            "rainbow satellite star starlight sun sunrise sunset twilight",
    "something on a farm": "barrel beehive bridle bullock calf cattle chick cockerel dairy fence fodder foal furrow gate "
                           "haystack hedge hen herd harness hive kid lamb manger orchard paddock piglet pigsty plough "
                           "pony rooster saddle scarecrow seedling silo stable trough turkey wheat yoke",
    "something at sea": "anchor beacon buoy cabin captain cargo compass coral crew current deck dock dolphin driftwood "
                        "fisherman foam harbour hull jetty jellyfish keel lobster mast mermaid net oar octopus oyster "
                        "paddle pebble pier pirate port rigging rudder sail sailor seagull seal seashell seaweed "
                        "shipwreck starfish surf tide turtle urchin voyage walrus wave whale wharf",
    "something in a school": "alphabet atlas bell blackboard book break chalk classroom crayon desk dictionary eraser "
                             "exercise globe grammar homework ink lesson letter map notebook page paint paper pen pencil "
                             "playground poem pupil question ruler sentence spelling stapler story sum teacher timetable",
    "something in a castle": "armour arrow banner battlement bow cannon catapult crown dragon drawbridge dungeon feast "
                             "fountain goblet jester jewel king knight lance minstrel moat page prince princess queen "
                             "sceptre sentry servant shield spear squire staircase sword tapestry throne torch treasure "
                             "turret tournament",
    "something in the house": "attic balcony banister basket blanket blind brush bulb button candle carpet ceiling cellar "
                              "chimney clock corridor cot curtain cushion door doorbell doorstep fireplace floor hallway "
                              "hearth hinge key keyhole kitchen lampshade landing latch letterbox lock mat nursery "
                              "ornament pantry parlour pillow pipe plug porch quilt roof shutter sink sponge stairs tap "
                              "thread tile towel umbrella vase wall window",
    "a family member": "aunt baby brother child cousin daughter father grandchild grandfather grandmother husband mother "
                       "nephew niece parent sister son twin uncle wife",
}.items()}

# nouns of the themes that take no article
MASS = set("""armour barracks bellows blocks bread broth butter cargo cattle cheese chocolate coral crew curry custard dawn driftwood dusk foam
fodder gravy ham honey jam jelly lightning marmalade moonlight porridge rice soup stairs starlight stew stuffing surf
toast toffee tongs twilight wheat yoghurt salad""".split())

VERBS = """accept admire adore agree allow amuse announce answer appear argue arrange arrive ask attach attend avoid bake
balance beg behave belong blame bless blink blush boast boil borrow bounce bow brag breathe brush bubble bump bury buzz call
camp care carry carve cause challenge charge chase chatter cheat check cheer chew chop claim clap clean clear climb close
coach collect colour comb comfort complain complete confess confuse consider contain continue cook copy correct cough count
cover crack crash crawl cross crush cry cure curl dance dare decide decorate delay deliver depend describe deserve destroy
discover dislike dive divide doubt drag drain dream dress drift drip drop drown dry dust earn echo embrace employ empty
encourage end enjoy enter escape examine excite excuse exist expand expect explain explore fade fail fasten fetch fill fish
fix flap flash flatter float flood flow flutter fold follow forgive frighten frown fry gallop gather gaze giggle glance
glitter glow gossip grab greet grin grip groan growl grumble guard guess guide hammer handle hang happen harm hatch hate haul
heal heap heat help hesitate hike hop hope hover howl hug hum hunt hurry ignore imagine improve include increase inform
inspect instruct invent invite itch jingle jog join joke juggle jump kick kiss kneel knit knock label land last laugh launch
lean learn lick lift like limp listen live load lock look loosen love lower manage march mark match measure melt mend mention
milk mine miss mix moan mourn move multiply mumble munch murmur need nibble nod notice obey observe obtain offer open order
paddle pack paint park pass paste pat pause peel peep perform pick pinch plan plant play plead please plot plunge point
polish pour pout practise praise pray prefer prepare present press pretend prevent print promise protect prove provide pull
pump punch punish purr push quarrel question quiver race rattle reach realise receive recite recognise record refuse regret
remain remember remind remove repair repeat replace reply report request rescue rest return reward rinse ripen risk roar rock
roll row rub ruin rule rush sail save scare scatter scold scrape scratch scream scrub search seem serve settle share sharpen
shelter shiver shout shove shriek sigh signal skip slam slip slither smash smell smile smooth snap sneeze sniff snore snuggle
soak soothe sparkle spill splash spoil spray sprinkle squash squeak squeal squeeze stack stagger stammer stamp stare start
startle stay steer stir stitch stop store stretch stroke stroll study stumble suggest supply support suppose surround swallow
sway switch tame tap taste tease tempt thank tickle tidy tiptoe toast toss touch trace trade trail train travel treat tremble
trick trip trot trust tug tumble turn twist type undress unite unlock unpack use vanish visit wail wait walk wander want warm
warn wash waste watch wave weigh welcome whine whirl whisper whistle wink wipe wish wobble wonder work worry wrap wreck
wrestle wriggle yawn yell""".split()

ADJECTIVES = """able absent active afraid aged alert alive alone ancient angry anxious awake awful awkward bare beautiful big
bitter blank blind blunt bold brave brief bright brilliant brisk broad broken bumpy busy calm careful careless charming cheap
cheerful chilly chubby clean clear clever clumsy coarse cold comfortable common cosy cracked crafty crazy creamy crisp crooked
cruel crunchy curious curly curved cute damp dangerous daring dark dear deep delicate delicious delightful dense different dim
dirty distant dizzy dreadful dreamy dry dull dusty eager early easy elegant empty endless enormous equal even excellent
exciting expert faint fair faithful familiar famous fancy fast fat favourite fearless fierce fine firm flat fluffy fond foolish
fragile frail free fresh friendly frosty frozen full funny furry furious fuzzy generous gentle giant gifted glad gleaming
gloomy glorious golden good gorgeous graceful grand grateful great greedy grim grumpy handsome handy happy hard harmless harsh
hasty healthy heavy helpful helpless hidden high hollow holy homely honest hopeful horrible huge humble hungry icy ideal idle
important impatient innocent itchy jagged jealous jolly joyful juicy keen kind large late lazy lean light likely little lively
local lonely long loose lost loud lovely low loyal lucky lumpy mad magic main many massive meek mellow merry messy mighty mild
minute misty modern modest moist muddy musical mysterious naked narrow nasty natural naughty near neat nervous new nimble noble
noisy normal numb obedient odd old open ordinary pale patient peaceful perfect plain playful pleasant plentiful plump polite
poor popular powerful precious pretty prickly prompt proper proud pure puzzled quaint quick quiet rapid rare raw ready real
reliable remarkable rich right ripe rosy rotten rough round royal rude rusty sad safe salty sandy scared scarlet secret
selfish sensible separate serious shabby shady shaggy shallow sharp shiny short shy silent silky silly simple single skilful
sleepy slender slim slippery slow small smart smoky smooth snowy snug sociable soft solid sore sour sparkling special speedy
spicy splendid spotless spotted square starry steady steep sticky stiff still stormy straight strange strict striped strong
stubborn sturdy sudden sunny super sure sweet swift tall tame tasty tender terrible thankful thick thin thirsty thorny
thoughtful tidy tight tiny tired tough tricky true twisted ugly unhappy unusual upset useful useless usual valuable vast
velvety violent warm watchful weak wealthy weary wet whole wicked wide wild windy wise wonderful wooden woolly worn worried
worthy wrong young zealous""".split()

# of the adjectives those that fit any thing one can see
VISIBLE = """ancient bare big bright broad broken bumpy clean cosy cracked crooked curved damp dark deep dirty dull dusty elegant empty
enormous fancy fine flat fluffy fragile frozen furry fuzzy gleaming gloomy golden gorgeous grand handsome heavy hollow huge icy large
light little lonely long lovely low lumpy massive messy mighty misty modern modest muddy mysterious narrow neat new noble odd old
pale perfect plain precious pretty quaint rare rosy rough round royal rusty sandy shabby shady shaggy sharp shiny silky simple
slender slim slippery small smooth snowy snug soft solid special splendid spotless spotted square sticky stiff strange striped
sturdy sunny tall thick thin tidy tiny twisted ugly unusual useful useless valuable vast velvety warm wet wide wild wonderful
wooden woolly worn""".split()

ADVERBS = """anxiously bashfully boldly bravely briefly brightly briskly calmly carefully cheerfully clearly cleverly
clumsily curiously daintily dreamily eagerly easily fearlessly fiercely firmly fondly gently gladly gracefully gratefully
greedily grumpily happily hastily helpfully honestly hopefully hungrily jealously jokingly joyfully justly kindly lazily
lightly loudly lovingly loyally merrily mildly modestly nearly neatly nervously nimbly noisily obediently openly patiently
peacefully playfully politely promptly properly proudly quickly quietly rapidly readily roughly sadly safely seriously sharply
shyly silently simply sleepily slowly smoothly softly solemnly steadily sternly strictly suddenly surely sweetly swiftly
tenderly thankfully thoughtfully tightly timidly truly urgently warmly wearily wildly willingly wisely""".split()

OTHER = """about above across after again against almost along already also always among another around away because become
before behind below beside between beyond both bring brought catch caught choose chose close corner danger double during each
early either enough even evening every everyone everything far few fifteen fifty first five forever forget forty four
friend gave girl half himself hundred idea inside instead join journey last later least left less little lost luck market maybe
middle million minute moment morning mountain much music near never next night nobody none north nothing number often once only
other outside over part people perhaps piece pocket present problem quarter rather reason rhyme river round second secret
seven several sixty somebody something sometimes soon south speech spoke stood story summer surprise tail taught ten than their
there third thirty thought thousand three through ticket today together tomorrow tonight toward town trouble twelve twenty
twice under until upon valley village voice wear weather week weekend west wheat wheel where while winter within without wolf
woman wood world write wrote year yesterday yet zebra zero zoo""".split()
