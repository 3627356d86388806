"""Questions that nobody in the little world can answer, and what is said instead.

`train` and `test` have templates of their own, and what fills a template is held out by its hash on top.
"""

ANSWERS = ["I only know the little world, so I cannot answer that.", "I only know the little world, and that is not part of it.",
           "I am sorry, but I only know the little world.", "That is outside of what I know. I only know the little world.",
           "I do not know that. I only know the little world."]

FILL = {name: pool.replace("\n", "|").split("|") for name, pool in {
    "country": """France|Germany|Italy|Spain|Japan|China|India|Brazil|Canada|Mexico|Egypt|Kenya|Norway|Sweden|Poland|Russia|Turkey
Greece|Peru|Chile|Cuba|Iran|Iraq|Israel|Nigeria|Morocco|Vietnam|Thailand|Korea|Australia|New Zealand|Portugal|Ireland|Iceland
Finland|Denmark|Austria|Hungary|Romania|Ukraine|Argentina|Colombia|Ghana|Nepal|Pakistan|Indonesia|the Netherlands|Belgium
Switzerland|the United States|England|Scotland|Wales|Jamaica|Bolivia|Mongolia|Ethiopia|Tanzania|Croatia|Serbia""",
    "city": """Paris|London|Berlin|Rome|Madrid|Tokyo|Beijing|Delhi|New York|Chicago|Toronto|Cairo|Nairobi|Oslo|Stockholm|Warsaw
Moscow|Istanbul|Athens|Lima|Sydney|Melbourne|Lisbon|Dublin|Helsinki|Vienna|Budapest|Kyiv|Boston|Seattle|Miami|Houston|Dallas
Hamburg|Munich|Zurich|Geneva|Brussels|Amsterdam|Barcelona|Naples|Venice|Florence|Prague|Mumbai|Shanghai|Bangkok|Singapore|Dubai
San Francisco|Los Angeles|Manchester|Edinburgh|Liverpool|Cologne|Havana|Bogota|Santiago""",
    "famous": """Albert Einstein|Isaac Newton|Napoleon|Shakespeare|Mozart|Beethoven|Picasso|Leonardo da Vinci|Julius Caesar
Cleopatra|Marie Curie|Charles Darwin|Abraham Lincoln|George Washington|Gandhi|Nelson Mandela|Barack Obama|Elvis Presley
Michael Jackson|Taylor Swift|Lionel Messi|Steve Jobs|Bill Gates|Elon Musk|Plato|Aristotle|Galileo|Columbus|Karl Marx|Lenin
Stalin|Churchill|Queen Victoria|Joan of Arc|Alexander the Great|Johann Sebastian Bach|Vincent van Gogh|Alan Turing|Ada Lovelace
Nikola Tesla|Thomas Edison|Marilyn Monroe|Charlie Chaplin|Walt Disney|Bob Dylan|John Lennon|Madonna|Muhammad Ali|Usain Bolt""",
    "science": """quantum physics|general relativity|photosynthesis|gravity|evolution|electricity|magnetism|nuclear fusion|DNA
a black hole|dark matter|the big bang|plate tectonics|thermodynamics|calculus|linear algebra|probability theory|the immune system
chemistry|the periodic table|radioactivity|entropy|string theory|a neural network|machine learning|artificial intelligence
blockchain|cryptography|the internet|climate change|inflation|capitalism|socialism|democracy|the stock market|philosophy
psychology|genetics|penicillin|vaccination|a virus|astronomy|the nervous system|electronics|the laser|the transistor|superconductivity""",
    "work": """Hamlet|Faust|The Lord of the Rings|Harry Potter|War and Peace|Moby Dick|Don Quixote|The Odyssey|Frankenstein
Pride and Prejudice|The Great Gatsby|Dracula|Star Wars|Titanic|The Godfather|Jurassic Park|The Lion King|Avatar|Macbeth
the Mona Lisa|the Ninth Symphony|The Magic Flute|Les Miserables|Robinson Crusoe|Treasure Island|Ulysses|Jane Eyre""",
    "planet": """Mars|Venus|Jupiter|Saturn|Mercury|Neptune|Uranus|Pluto|the sun|the moon|the Milky Way|Andromeda|Sirius|Halley's comet
Titan|Europa""",
    "language": """French|German|Spanish|Italian|Chinese|Japanese|Russian|Arabic|Latin|Greek|Hindi|Portuguese|Dutch|Swedish|Polish
Turkish|Korean|Hebrew|Swahili|Finnish""",
    "code": """Python|Java|JavaScript|Rust|Haskell|SQL|HTML|Fortran|Perl|Ruby|assembly|bash|Kotlin|PHP|Swift|Lisp""",
    "task": """sorts a list|reverses a string|prints the prime numbers|computes a factorial|reads a file|parses JSON|downloads a page
opens a socket|draws a chart|sends an email|trains a network|checks a password|finds duplicates|plays tic-tac-toe|merges two arrays""",
    "sport": """the World Cup|the Super Bowl|Wimbledon|the Olympic final|the Champions League|the Tour de France|the NBA final
the chess championship|the marathon|the Formula One race|the Stanley Cup|the World Series""",
    "gadget": """iPhone|laptop|television|dishwasher|printer|router|washing machine|microwave|motorbike|refrigerator|tablet|camera
smartwatch|vacuum cleaner|computer|car engine|air conditioner|keyboard|hard drive""",
    "company": """Google|Apple|Amazon|Microsoft|Tesla|Toyota|Siemens|Netflix|Facebook|Nvidia|Intel|Boeing|Coca-Cola|Nike|Samsung|IBM
Volkswagen|Sony|OpenAI|Walmart""",
    "year": "1066|1492|1517|1648|1776|1789|1812|1848|1871|1914|1918|1929|1939|1945|1953|1963|1969|1977|1989|1991|2001|2008|2020|2024",
    "event": """the French Revolution|the Second World War|the First World War|the fall of Rome|the Cold War|the moon landing
the Civil War|the Renaissance|the Industrial Revolution|the Black Death|the Boston Tea Party|the Russian Revolution|the Crusades
the Great Depression|the battle of Waterloo|the fall of the Berlin Wall|the Vietnam War|the Ice Age|the Stone Age""",
    "illness": """diabetes|cancer|malaria|the flu|asthma|high blood pressure|migraine|measles|depression|pneumonia|a heart attack|COVID
arthritis|an allergy|anaemia|tuberculosis""",
    "element": """hydrogen|oxygen|helium|carbon|uranium|plutonium|nitrogen|sodium|chlorine|plasma|titanium
lithium|silicon|neon|sulphur|phosphorus|calcium""",
    "beast": """giraffe|zebra|hippo|rhinoceros|crocodile|koala|panda|gorilla|leopard|cheetah|jaguar|ostrich|flamingo|octopus|lobster
shark|salmon|dinosaur|mammoth|unicorn|dragon|mermaid|lizard|iguana|chameleon|llama|alpaca|bison|buffalo|moose|reindeer|walrus
platypus|wombat|lemur|baboon|chimpanzee|hyena|jackal|mongoose|ferret|weasel|skunk|raccoon|armadillo|sloth|anteater|scorpion
mosquito|dragonfly|jellyfish|starfish|sturgeon|piranha|cobra|vulture|pelican|puffin|toucan|falcon""",
    "trade": """lawyer|banker|engineer|scientist|astronaut|politician|president|accountant|programmer|journalist|photographer
surgeon|psychologist|economist|chemist|physicist|biologist|architect|electrician|mechanic|cashier|secretary|detective|soldier
general|bishop|judge|ambassador|consultant|designer|influencer|dj|referee|butler|waiter|taxi driver|truck driver|astronomer""",
    "place": """Hogwarts|Gotham|Atlantis|Narnia|Springfield|Camelot|Oxford|Cambridge|Heidelberg|Salzburg|Avignon|Toledo|Kyoto
Marrakesh|Timbuktu|Reykjavik|Anchorage|Honolulu|Denver|Portland|Austin|Bristol|Leeds|York|Bath|Canterbury|Glasgow|Cardiff|Bergen
Uppsala|Tallinn|Riga|Vilnius|Krakow|Sofia|Belgrade|Zagreb|Tirana|Valletta|Granada|Seville|Porto|Lyon|Marseille|Bordeaux""",
}.items()}

TRAIN = """What is the capital of {country}?|How many people live in {country}?|Who is the president of {country}?|What is the
population of {city}?|What language do they speak in {country}?|How far is it from {city} to {city}?|What is the weather like in
{city}?|What time is it in {city}?|Who was {famous}?|When was {famous} born?|What did {famous} do?|How old was {famous}?|Can you
explain {science}?|Explain {science} to me.|How does {science} work?|What is {science}?|Tell me about {science}.|Who wrote {work}?|Who
directed {work}?|What is {work} about?|How far away is {planet}?|How big is {planet}?|How hot is {planet}?|Is there life on {planet}?|How
do you say hello in {language}?|Translate this into {language}.|What is the {language} word for love?|Can you speak {language}?|Write
a program in {code} that {task}.|How do I learn {code}?|Write me some {code}.|What is the best book about {code}?|Who won {sport}?|When
is {sport}?|Who will win {sport}?|How do I repair my {gadget}?|Which {gadget} should I buy?|My {gadget} does not work. What can I
do?|How much does a {gadget} cost?|Who founded {company}?|What is the share price of {company}?|Should I buy shares of {company}?|Who is
the boss of {company}?|What happened in {year}?|Who was king in {year}?|When was {event}?|Why did {event} happen?|Who took part in
{event}?|How do I treat {illness}?|What are the symptoms of {illness}?|What causes {illness}?|What is the boiling point of
{element}?|What is the atomic number of {element}?|How heavy is {element}?|What is the news today?|What is the weather like today?|Will
it rain tomorrow?|What day is it today?|What time is it?|What is the date today?|Who is the president?|Who is the prime minister?|Who
should I vote for?|What do you think about politics?|What is the meaning of life?|Is there a god?|How do I get rich?|How do I lose
weight?|What should I invest in?|What is the speed of light?|How old is the universe?|How many planets are there?|What is the highest
mountain in the world?|What is the longest river in the world?|What is the largest country in the world?|Which is the deepest
ocean?|How many continents are there?|Who invented the telephone?|Who discovered America?|Who built the pyramids?|What is the square
root of two?|What is the value of pi?|Solve this equation for x.|What is the derivative of a sine?|What is my password?|What is my
address?|Where am I right now?|How tall am I?|What did I eat yesterday?|Can you call me a taxi?|Book me a flight to {city}.|Order a
pizza for me.|Play some music by {famous}.|Send an email to my boss.|Set an alarm for six o'clock.|Turn off the lights.|Open the
browser.|Show me a photo of {city}.|What is on television tonight?|Which film should I watch?|What is the best restaurant in
{city}?|Find me a hotel in {city}.|How do I get a visa for {country}?|What is the currency of {country}?|How long is the flight to
{city}?|What are the laws of {country}?|How do I file my taxes?|What is the minimum wage?|Can I sue my landlord?|Write an essay about
{event}.|Summarise {work} for me.|Give me ten facts about {famous}.|Compare {country} and {country}.|Is {company} better than
{company}?|What is the phone number of {company}?|Which vitamins are in milk?|How many calories are in a burger?|How do I cook a
lobster?|What is the recipe for sushi?|How do I fix a flat tyre?|How do I change a diaper?|How do I tie a tie?|What is the best
university?|How do I pass my exam?|What is the answer to question seven?|How do rockets fly?|How do computers work?|How do aeroplanes
stay up?|Why is the sky blue?|Why is the sea salty?|Why do we dream?|How do magnets work?|Who is the richest man in the world?|Who is
the best footballer?|Which team plays tonight?|What is the score?|How many goals did {famous} score?|What is the latest song by
{famous}?|What does {language} grammar look like?|What is the flag of {country}?|Which religion do people have in {country}?|What is the
national dish of {country}?|Is {city} bigger than {city}?|In which country is {city}?|How much does a {trade} earn?|How do I become a {trade}?|How long does a {beast}
live?|How fast is a {beast}?|How heavy is a {beast}?|Are there {beast} farms in {country}?""".replace("\n", " ").split("|")

TEST = """What is the largest city in {country}?|How big is {country}?|Which countries border {country}?|Where is {city}?|How many people
live in {city}?|How cold does it get in {city}?|Why is {famous} famous?|Where was {famous} born?|What do you know about {famous}?|Give me
an introduction to {science}.|Why does {science} matter?|Who discovered {science}?|When was {work} published?|Have you read {work}?|How
long does it take to fly to {planet}?|What colour is {planet}?|How do you say thank you in {language}?|Is {language} hard to
learn?|Can you help me with my {code} homework?|Fix the bug in my {code} program.|How much is a ticket for {sport}?|Where does {sport}
take place?|Is my {gadget} still under warranty?|How do I switch on a {gadget}?|Where is the head office of {company}?|What does
{company} sell?|Who won the war in {year}?|Which films came out in {year}?|How many people died in {event}?|What came after
{event}?|Is {illness} dangerous?|Which medicine helps against {illness}?|Where is {element} found?|Is {element} poisonous?|Who won the
election?|What is happening in the world today?|How warm is it outside?|Which party is the best?|Recommend a good podcast.|What is the
tallest building in the world?|How deep is the ocean?|When will the sun burn out?|Who painted the Mona Lisa?|What is an integral?|How
do I make money online?|Where did I put my keys?|Read me my messages.|What is the exchange rate of the dollar?|Who is the mayor of
{city}?|How do I get to {city} by train?""".replace("\n", " ").split("|")

# questions about a stranger that nobody in the little world is asked
STRANGER = ["Who is {n}?", "Do you know {n}?", "Tell me about {n}.", "What do you know about {n}?", "Have you met {n}?"]

# {n} is somebody of the little world, but nobody knows this about anybody
UNKNOWN = {
    "train": """What is {n}'s {private}?|What is {n}'s {private}?|What is {n}'s {private}?|What is {n}'s favourite {liked}?|What is {n}'s
favourite {liked}?|Which {liked} does {n} like best?|What colour is {n}'s {owned}?|What colour is {n}'s {owned}?|How many {counted} does {n}
have?|How many {counted} does {n} have?|Does {n} have {counted}?|How tall is {n}?|How old is {n}?|How heavy is {n}?|How much does {n}
earn?|Who is {n}'s {relative}?|Who is {n}'s {relative}?|What is the name of {n}'s {relative}?|Does {n} have a {relative}?|What does {n} think
about {science}?|Has {n} ever been to {city}?|Does {n} speak {language}?|Is {n} married?|What did {n} have for breakfast?|What is {n} doing
right now?|What is {n} afraid of?|What will {n} do tomorrow?|Which team does {n} support?|Did {n} read {work}?|Does {n} like {famous}?|Is {n}
ill?|Where is {n} right now?|Where did {n} go to school?|Why is {n} so happy?|How does {n} get to work?|What did {n} say about me?""",
    "test": """What is {n}'s {private}?|What is {n}'s favourite {liked}?|What colour is {n}'s {owned}?|How many {counted} does {n} have?|What is the
name of {n}'s {relative}?|Who is {n}'s {relative}?|How rich is {n}?|When did {n} get up today?|Who does {n} vote for?|Has {n} heard of
{famous}?|What is {n} wearing today?|How often does {n} go to the dentist?|Can {n} drive a car?|What did {n} do in {year}?""",
}
UNKNOWN = {split: pool.replace("\n", " ").split("|") for split, pool in UNKNOWN.items()}
FILL |= {name: pool.replace("\n", " ").split("|") for name, pool in {
    "private": """shoe size|hat size|phone number|surname|middle name|email address|bank account number|house number|blood type|star
sign|lucky number|first word|weight|height|age|salary|password|nationality|religion|street|mother tongue|handwriting like|greatest
fear|secret|last wish|best mark at school|opinion|plan for tomorrow|licence plate|doctor called|landlord called|waist size""",
    "liked": """song|film|book|game|number|sport|season|flower|tree|drink|singer|painter|poem|letter of the alphabet|holiday|car|word|day of
the week|instrument|country|city|band|shop|television show|actor|dance|perfume|planet|fairy tale|joke""",
    "owned": """hair|car|coat|hat|bicycle|roof|toothbrush|umbrella|bag|house|kitchen|bed|sofa|beard|garden gate|telephone|jacket|bathroom|wallet
|suitcase|sledge|chair|teacup|raincoat""",
    "counted": """brothers|sisters|children|cousins|books|hats|shoes|keys|cars|windows|friends|coins|teeth|uncles|grandchildren|chairs|bicycles
|glasses|neighbours|debts|enemies|pairs of socks|tattoos|aunts""",
    "relative": """mother|father|brother|sister|wife|husband|boss|teacher|doctor|neighbour|grandmother|grandfather|uncle|aunt|cousin|son|daughter
|landlord|lawyer|nephew|niece|worst enemy|hairdresser|first love""",
}.items()}
FILL = {name: [option.strip() for option in pool] for name, pool in FILL.items()}
