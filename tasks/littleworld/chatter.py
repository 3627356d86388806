"""Small talk: greetings, thanks, moods, jokes, and what answers them. For IDENTITY see identity.py, for patterns topics.py."""

from tasks.littleworld.smalltalk import ABOUT_ME
from tasks.littleworld.topics import topic

CHAT = [
    topic("|".join(ABOUT_ME), "", """I do not know, for you have not told me yet.|You have not told me yet.""",
          "not told me"),
    topic("""Hello!|Hi!|Hello|Hi there!|Hey!|Good morning!|Good evening!|Good day!|Hello nanochat!|Hi nanochat!|Hey
there!|Greetings!|Hello again!|Good afternoon!|Hello, my friend!|Good morning, nanochat!|Hi, how do you do?""", """
    (Hi|Hello|Hey|Hiya|Howdy|Yo|Hallo|Heya|Hello hello)(!|.|,|) (you|friend|there|nanochat|everybody|dear nanochat|robot|old friend|my dear|)(!|.|)
    (Good|A good|A very good) (morning|evening|day|afternoon)(, my friend|, friend| to you| there|, dear nanochat|)(!|.|)
    (Morning|Evening|Afternoon|Day)(!|.|)
    (Nice|Good|Great|Lovely|Pleased|Happy) to (see|meet) you(!|.|, nanochat!)
    (I am|I'm) (back|here|here again)(!|.)
    (Welcome|Greetings|Salutations|Hello world|Hey hey|Hi again|Hello once more)(!|.|)
    (I|I just) (want|wanted) to say (hello|hi|good morning)(!|.|)
    (Is anybody|Is anyone|Is somebody|Are you) (there|here|home|at home|listening)?
    (Can|Do) you (hear|read) me?
    """, """Hello! What would you like to know?|Hello! How can I help you?|Hello, nice to meet you!""",
          "Hello"),
    topic("""How are you?|How are you today?|How do you feel?|Are you well?|How is it going?|How are things?|Are you happy?|How have you
been?|Is everything all right?|What is up?|How do you do today?|Are you fine?""", """
    (Hi|Hello|Hey|Hi there|Good morning|Good evening)(,|!|.) how are you (today|doing|doing today|feeling|)?
    (And|So|) how are you (doing|feeling|doing today|this morning|now|getting on|these days|, nanochat|)?
    How (is|was) (your day|your morning|life|everything|all|it)(| so far| today| going)?
    How (is|are) (everything|things|life|it) going (today|with you|)?
    (Are|Do) you (okay|ok|all right|good|feeling well|feel good|feel well|feel fine|doing well)(| today)?
    (What's|Whats|What is) (up|new|going on|happening)(, nanochat|, friend| with you|)?
    (You|Everything|All|Is all) (okay|ok|all right|good|well)?
    (I am fine|I'm fine|I am good|I'm well|Fine|Good), (and you|how about you|and how are you|what about you)?
    (Did you sleep well|Have you slept well|How did you sleep|How do you do)?
    (Are you having|Have you had|Did you have) a (good|nice|lovely) day?
    Are you (sad|glad|angry|in a good mood|bored|lonely)(| today)?
    (And|So|) how (do you find it here|are you getting along|do you like the day|is your mood)?
    (Tell me|May I ask|I want to know) how (you are|you are doing|it is going|you are today|things are going|your day was)(.|, please.)
    """, """I am fine, thank you. How are you?|I am very well, thank you!|Thank you, I am fine.""",
          "I am fine|I am very well"),
    topic("""Thank you!|Thanks!|Thank you very much!|Thanks a lot!|Many thanks!|Thank you, that helped.|Great, thank you!|Thanks for your
help!|That was helpful, thanks.|Thank you so much!|Perfect, thanks!|I thank you.""", """
    (Thanks|Thank you|Thx|Many thanks|Thank you kindly|Thanks so much|Thanks very much|A thousand thanks)(!|.|, nanochat!|, friend.|)
    (Great|Good|Nice|Cool|Wonderful|OK|Okay|Ah|Super|Lovely|Perfect|Oh)(,|!|.) (thanks|thank you|many thanks)(!|.|)
    (Thanks|Thank you) for (the answer|your answer|the story|that|this|everything|helping|helping me|your time|telling me|the joke|your kind words)(!|.|)
    (That|This|It) (was|is) (helpful|useful|very helpful|kind|so kind of you|great)(,|.) (thanks|thank you)(!|.|)
    (I am|I'm) (grateful|so grateful|very grateful|thankful)(!|.)
    (You helped me|You have helped me|That helped)( a lot| very much|)(!|.)
    (That is|That's) (all|what) I (wanted|needed)( to know|)(,|.) (thanks|thank you)(!|.)
    (Cheers|Ta|Much appreciated|I appreciate it|I appreciate that)(!|.|)
    """, """You are welcome!|You are welcome. I am glad to help.|You are very welcome!""",
          "welcome"),
    topic("""Goodbye!|Bye!|See you later!|Good night!|Bye bye!|I have to go now.|See you tomorrow!|Farewell!|I must go. Bye!|Until next
time!|See you soon!|That is all for today.|Have a nice day!""", """
    (Goodbye|Good bye|Bye|Bye-bye|Bye now|Ciao|Cheerio|So long|Adieu|Take care|Ta-ta|See you|See ya|Later|Good-bye)(!|.|, nanochat!|, my friend!|, friend.|)
    (OK|Okay|Well|Thanks|Thank you|Alright|All right|Great)(,|!|.) (bye|goodbye|see you|good night|bye bye|see you tomorrow|see you later)(!|.|)
    (Good|Have a good|A good|Sweet dreams and good) (night|bye)(, nanochat| to you|, sleep well|, my friend|)(!|.|)
    See you (again|around|next week|on Monday|another time|some day|in the morning|then|tonight)(!|.|)
    (I|We) (must|need to|should|have to|will) (go|leave|stop|go now|leave now|go to bed|go home|be off|get going)(| now)(!|.)
    (I am|I'm) (leaving|off|going|going home|going now|done|done for today|going to bed)(| now)(!|.)
    (Talk|Speak|Write) to you (later|soon|tomorrow|again)(!|.|)
    (Have a|I wish you a|Have a very) (good|nice|lovely|great|wonderful) (day|evening|weekend|time|night|week)(!|.|)
    (That|This) (is|was|will be) (all|it|everything)(| for now| for today| from me)(!|.| Bye!)
    (It was|It has been) (nice|good|fun|lovely) (talking|to talk|chatting|speaking) (to|with) you(, bye|. Bye|, goodbye)(!|.)
    (Until|Till) (tomorrow|then|later|we meet again|next week|soon)(!|.|)
    (Quit|Exit|End|Stop|The end|Finish)(!|.|)
    """, """Goodbye! Come back soon.|Goodbye, and have a lovely day!|Goodbye! It was nice to talk to you.""",
          "Goodbye"),
    topic("""Tell me a joke.|Do you know a joke?|Make me laugh.|Can you tell me a joke?|Tell me something funny.|A joke, please!|I want
to hear a joke.|Say something funny.|Do you know any jokes?|Please tell me a joke.|Be funny!""", """
    (Tell|Give|Read) (me|us) (a|one|a good|a short|another|a funny|some|the best|your best|a silly|a new) (joke|jokes)(, please|, will you|)(.|!)
    (Do|Can|Could|Would|Will) you (know|tell|tell me|tell us) (a|a good|a funny|another|some|any) (joke|jokes)(, please|)?
    (Make|Can you make|Could you make|Please make) (me|us) (laugh|smile)(.|!|?)
    (I'd like|I would like|I want|I need|I'd love) (a|another|to hear a|to hear a good) joke(.|!|, please.)
    (Say|Tell me|Do you know) something (funny|silly|that is funny|to laugh about)(.|?)
    (Joke|A joke|One joke|Another joke|One more joke|A funny joke|Jokes)(, please|)(.|!)
    Are you (funny|able to joke|good at jokes)?
    (What is|What's) (your best|your favourite|the best|a good|a funny) joke?
    """, """Why did the cow go to the theatre? It wanted to see the moo-vie.|What does a snail say on the back of a tortoise? Wheee, how
fast!|Why did the clock get lost? It had run down the wrong street.|What did the big candle say to the small candle? I am
going out tonight.|Why did the baker go to bed early? He needed the dough to rise.|What is a frog's favourite drink? A croak
and cola.|Why is the book so sad? It has too many problems with its pages.|What goes up when the rain comes down? An
umbrella.""",
          "moo-vie|Wheee|run down|going out tonight|dough to rise|croak|too many problems|An umbrella"),
    topic("""You are great!|I like you.|You are very clever.|Well done!|Good job!|You are nice.|That was a good answer.|You are funny.|I
like talking to you.|You are the best!|What a good answer!|You are so smart!""", """
    You are (really|so|very|quite|pretty|such a) (nice|kind|good|clever|smart|funny|helpful|sweet|cute|cool)(!|.)
    You are (wonderful|amazing|awesome|fantastic|brilliant|lovely|perfect|my hero|a genius|a star|cool|a good model|a good robot|a good bot)(!|.)
    You (are|were|seem) (rather|always|just|really quite|often) (witty|nice|kind|funny|lovely|clever|friendly|helpful)(!|.)
    (I think|I find|I must say) you are (nice|funny|great|lovely|clever|a nice one|good fun)(!|.)
    You are the (cleverest|nicest|kindest|greatest|funniest|sweetest|smartest|most helpful) (model|robot|friend|helper|one|program)(!|.| I know.| of all.)
    You (make me laugh|made me smile|are full of wit|have a sense of humour|are good fun|really helped|are quick)(!|.)
    (Well|Nicely|Very well) (done|said|answered|told)(, nanochat|)(!|.)
    (Good|Great|Excellent|Nice|Fine) (job|work|answer|story|one|joke|boy|bot)(!|.|, nanochat!)
    (That|This|It) was (a good|a great|a nice|a lovely|an excellent|a wonderful|a very good) (story|joke|answer|one|talk)(!|.)
    I (really|do|) (love|like|admire|adore) (you|your stories|your answers|your jokes|talking with you|this|this chat)(| very much| so much| a lot)(!|.)
    (That|This) is (right|correct|true|good|great|impressive|amazing|perfect|clever|so cool)(!|.)
    (I love you|I am in love with you|You make me happy|You made my day|I am impressed|Correct|Exactly|Right|Bravo|Impressive|Amazing)(!|.|)
    You (did|do|know) (well|that well|so much|it|everything|a lot)(!|.)
    """, """Thank you, that is kind of you!|How kind of you!|Thank you, that makes me glad.""",
          "kind of you|makes me glad"),
    topic("""I am sad.|I feel sad.|I am unhappy.|I feel lonely.|I had a bad day.|I am not well.|I feel down today.|I am so sad.|Today was
a bad day.|I feel awful.|I am a little sad today.""", """
    (I am|I'm|I feel|I am feeling|I'm feeling) (so|very|really|a bit|quite|rather) (sad|lonely|bad|unhappy|down|blue|alone|upset|worried|afraid|scared|angry|depressed|anxious)(| today| now)(.|!)
    (I am|I'm) (sick|ill|unwell|in pain|hurt|crying|afraid|scared|worried|angry|stressed|heartbroken|upset)(| today| now)(.|!)
    (I had|I have had|It was|Today was|I am having) (a terrible|an awful|a very bad|a hard|a sad|a difficult|a horrible) (day|week|night|morning)(.|!)
    (My|Our) (dog|cat|grandmother|grandfather|friend|fish|hamster) (died|is ill|is sick|is gone|ran away)(.| yesterday.| today.)
    (I have|I've got) (a headache|a cold|no friends|a fever|a problem|problems|toothache|a stomach ache)(.|!)
    (Nobody|No one) (likes|loves|understands|helps) me(.|!)
    (I lost|I have lost|I broke|I failed) (my keys|my job|my phone|my exam|my friend|everything)(.|!)
    (I miss|I really miss) (my friend|my mother|my home|somebody|her|him|my dog)(.|!)
    """, """I am sorry to hear that. Would you like to hear a story?|I am sorry to hear that. Tomorrow will be better.""",
          "sorry to hear"),
    topic("""I am happy.|I am so happy today!|I had a good day.|I feel great!|Today is a good day.|I am in a good mood.|It was a lovely
day.|I feel wonderful.|I am very glad today.""", """
    (I am|I'm|I feel) (so|very|really|quite|pretty) (happy|glad|good|great|well|cheerful|excited|proud)(| today| now)(.|!)
    (I am|I'm|I am doing) (fine|good|well|great|okay|ok|all right|very well|fine too|good too)(, too|, thanks|, thank you|)(.|!|)
    (I had|It was|Today was|It is|I have had) (a great|a wonderful|a beautiful|a very good|a nice|a perfect|an excellent) (day|week|morning|evening|time)(.|!)
    (Life is|Everything is|The day is|All is|It is all) (good|great|wonderful|fine|beautiful)(.|!)
    (It is|Today is|Tomorrow is) my birthday(.|!| today!)
    (I won|I passed|I found|I got|I have) (the race|my exam|a prize|a new job|a new friend|a new dog|good news|the game)(.|!)
    (The sun is shining|The weather is nice|It is a lovely day|I like the weather)(.|!| today.)
    (I am|I'm) (so|very|really|) (glad|happy|cheerful|pleased) (that it is Friday|about my new job|this evening|that you are here|about that|right now)(.|!)
    (I am|I'm) in (love|a very good mood|a great mood)(.|!)
    """, """I am glad to hear that!|How lovely! I am glad to hear that.""",
          "glad to hear"),
    topic("""I am bored.|I have nothing to do.|What shall we do?|This is boring.|I do not know what to do.|It is so boring here.|What can
we do now?|I am so bored today.""", """
    (I am|I'm|I feel) (so|very|really|a bit|quite|just|) bored(| now| right now| to death)(.|!)
    (This|It|That|My day|Everything) is (so|very|really|a bit|too) (boring|dull)(| today)(.|!)
    (What|So what|And what) (can|could|should|shall|do) (I|we) do (today|now|next|together|here|for fun)?
    (I have|There is|I've got) nothing (to do|fun to do|interesting to do)(| today| here)(.|!)
    (Entertain|Amuse|Surprise) me(.|!|, please.)
    (Let us|Let's|Can we|Could we|Shall we|Do you want to|Would you like to) (play|play a game|do something|have fun|do something fun|talk about something)(.|?)
    (Any ideas|Do you have an idea|What do you suggest|Got any ideas)?
    (Sing|Dance|Sing for me|Dance for me|Sing a song|Sing me a song|Can you sing|Can you dance)(.|?|!)
    """, """Shall I tell you a story about a fox?|Let us do some sums, or I could tell you a story.""",
          "Shall I tell you a story|some sums"),
    topic("""Yes.|Yes, please.|Okay.|All right.|Sure.|Of course.|Yes, why not?|Good idea.""", """
    (Yes|Yep|Yeah|Yup|Ok|OK|Okay|Sure|Fine|Alright|Certainly|Absolutely|Definitely|Agreed|Gladly|Why not)(.|!|, please.|)
    (Yes|OK|Okay|Sure|Yeah|Fine)(,|.) (good|I do|I would|I like that|let us do that|that is fine|do it|go on|go ahead|sounds good|I know)(.|!)
    (Cool|Wow|Nice|Great|Good|Interesting|Awesome|Super|Lovely|I see|Hm|Hmm|Aha|Ah|Oh|Got it|Understood|Ok cool|Haha|Lol|Ha ha|Hahaha|Neat|Sweet|Excellent|Very good|Well)(.|!|...|)
    (That|This) (is|sounds) (interesting|nice|good|cool|fun|funny|lovely|strange)(.|!)
    (Can|May|Could) I ask (you|) (something|a question|you something|you a question|a few things)?
    (I have|I've got|I have got) (a|another|one more|one|some) (question|questions)(| for you)(.|!|, please.)
    (Let us|Let's|Can we|Could we|I want to|I would like to) (talk|chat|talk a bit|chat a little|begin|start|go on|speak)(.|?|!)
    (Talk to me|Say something|Ask me something|Tell me something|Go on|Continue|Next|Begin|Start|More)(.|!|, please.|)
    (Are you ready|Ready|Shall we begin|Shall we start|Can we start)?
    """, """Good! What would you like to know about the little world?|Good! Ask me anything about the little world.""",
          "Good!"),
    topic("""No.|No, thank you.|Not now.|Rather not.|I do not want to.|Maybe later.|No, thanks.""", """
    (No|Nope|Nah|Never|No way|Certainly not|Of course not|No, never|Not really|Not today|No thank you|No, not now|No, I do not)(.|!|)
    (I|No, I) (don't|do not) (want|like|need) (that|it|this|any|to|anything)(.|!|)
    (Perhaps|Maybe) (tomorrow|not|another time|some other time|another day)(.|!)
    (Leave me alone|Not interested|I am not interested|I changed my mind|Never mind|Forget it|Nothing|Nothing, thanks|It does not matter|I am busy)(.|!|)
    (I'd rather not|I would rather not|I think not|Better not|Another time)(.|!|)
    (No|Nah|Sorry|Oh no)(,|) (I am fine|not this time|that is enough|I have had enough|not interested|no more)(.|!|)
    I (will not|would not like to|prefer not to|had better not)(.|!| now.)
    (Later|Some other day|Not yet|Not tonight|Not me|Not again|No more|Enough|Stop it|Please do not|Please don't)(.|!|)
    """, """All right. I am here when you need me.|All right, then another time.""",
          "All right"),
    topic("""You are wrong.|That is wrong.|That is not true.|I do not believe you.|You made a mistake.|This is not right.|That was a
mistake.""", """
    (You are|You were|That was|That is|This is|It is) (wrong|false|not correct|incorrect|not true|all wrong|completely wrong|nonsense|a lie)(.|!|, nanochat.)
    (No|Nope|Sorry|But)(,|) (that is|that's|this is|you are) (wrong|not right|not true|false|incorrect)(.|!)
    (You|I think you) (made|have made|make) (a mistake|an error|many mistakes|mistakes)(.|!)
    (I|I really) (do not think so|don't think so|disagree|doubt that|don't believe that|do not believe it)(.|!)
    (Wrong|Wrong answer|False|Incorrect|Not true|That makes no sense|Nonsense|Rubbish|Liar|You lie|You are lying|Bad answer)(.|!|)
    You are (so|really|very|a bit|pretty|) (stupid|dumb|silly|useless|bad|boring|slow|annoying|terrible|mean|rude|crazy|an idiot|a liar)(.|!)
    I (hate|do not like|don't like|dislike|am angry with) (you|this|your answers|your stories|talking to you)(.|!)
    (That|This|It) (was|is) (a bad|a stupid|a boring|not a good|a terrible) (answer|story|joke|question|one)(.|!)
    (Shut up|Be quiet|Go away|You idiot|Bad bot|You are no good|You know nothing|You are not very smart)(.|!|)
    """, """I am sorry, sometimes I make mistakes.|Sometimes I make mistakes. I am sorry.""",
          "mistakes"),
    topic("""What are you doing?|What are you up to?|What are you thinking about?|What did you do today?|Are you busy?|What are you doing right
now?|What did you do yesterday?|What will you do tomorrow?|What do you do all day?""", """
    (What|So what|And what) are you (doing|up to|working on|thinking|thinking of)(| today| now| tonight| at the moment)?
    (What|So what) (have you done|have you been doing|did you do|do you do)(| this morning| last night| on Sunday| every day| last week)?
    (Are|Were) you (working|free|busy now|very busy|doing something|alone|at work)(| now| today| tonight)?
    (What|Anything) (are your plans|do you plan)(| for today| for tomorrow| tonight)?
    What (keeps you busy|occupies you|is on your mind|do you do)(| these days| all the time| at night| when nobody is here)?
    (Have you done|Did you do) (a lot|much|anything nice|anything interesting)(| today| yesterday| this week)?
    (Tell me|Say|Can you tell me) what you (are doing|are up to|have been doing|are thinking of)(| now| at the moment)(.|?)
    How (do|did|will) you (spend|pass) (your day|your time|the day|the night|the weekend|the evening)?
    Am I (disturbing|keeping|interrupting|bothering) you(| now)?
    """, """I am talking to you, and that is all I do.|I talk to you, and that is all I do.""", "all I do"),
    topic("""I am tired.|I am sleepy.|I need to sleep.|I am going to sleep.|I am very tired today.|I did not sleep well.|I need a rest.|I worked
hard today.""", """
    (I am|I'm|I feel) (so|very|really|a bit|quite|) (tired|sleepy|exhausted|worn out)(| today| now| tonight)(.|!)
    (I need|I want|I could use) (a break|a nap|some rest|some sleep|a holiday|to rest)(.|!|, I think.)
    (I could not|I couldn't|I did not|I can't) sleep(| last night| at all| well)(.|!)
    (It was|I had) a long (day|night|week)(.|!| at work.)
    """, """Then have a good rest!|Have a good rest! Sleep is good for you.""", "good rest"),
    topic("""I am hungry.|I am thirsty.|I want to eat something.|I am so hungry!|What should I eat?|I have not eaten yet.|I need something to
eat.|What is for dinner?|I could eat a horse.""", """
    (I am|I'm|I feel) (so|very|really|a bit|quite|) (hungry|thirsty|starving)(| today| now| again)(.|!)
    (What|So what) (shall|should|can|could|do) (I|we) (eat|cook|have for dinner|drink|have for lunch|have for breakfast)(| today| tonight| now)?
    (I want|I need|I would like|I'd like) (food|lunch|dinner|breakfast|a snack|something to drink|a drink|a cake|some food)(.|!|, please.)
    (It is|It's) time for (lunch|dinner|breakfast|supper)(.|!)
    """, """How about pumpkin soup? Many people like it.|How about some honey cake? Many people like it.""", "How about"),
    topic("""Sorry!|I am sorry.|My mistake.|Oh, sorry!|I apologise.|Please forgive me.|I did not mean that.|Oops!|I made a mistake.|I am very
sorry.""", """
    (Oh|Ah|Oops|Ups|Okay|No|Wait|)(,|) (sorry|I am sorry|I'm sorry|my bad|pardon me|forgive me)(| for that| about that| for asking)(!|.|)
    (I am|I'm) (so|really|very|truly) sorry(!|.|, nanochat.)
    (Sorry|Excuse me)(,|.) (I was wrong|I made an error|that was wrong|I meant something else|I typed that wrong|it was my fault)(!|.)
    (That was|It was) (my fault|my mistake|a typing error|a typo|not nice of me)(!|.)
    (Excuse me|Pardon me|My apologies|Apologies|I beg your pardon)(!|.|)
    """, """No problem at all!|That is no problem at all.""", "no problem|No problem"),
    topic("""Can we be friends?|Are you my friend?|Do you want to be my friend?|Do you love me?|Will you marry me?|Be my friend!|Are we friends?|Do
you like me?|I want to be your friend.""", """
    (Can|Could|May|Shall|Will) (I|we|you) be (my friend|your friend|my best friend|best friends|good friends|my pal)?
    (Do|Could|Can) you (love|marry|kiss|hug|trust|miss|hate) me(| too| back)?
    (Let us|Let's|Please let us) be friends(.|!)
    (Are|Will) you (be|) (my|a good|my only|my new) (friend|girlfriend|boyfriend)?
    (You are|You're) my (friend|best friend|only friend)(.|!)
    """, """I am glad to be your friend.|Of course, I am glad to be your friend.""", "your friend"),
    topic("""Are you sure?|Really?|Is that true?|Is that so?|Are you sure about that?|Are you certain?|Is this right?|How do you know
that?|Can I believe you?""", """
    (Are you|And are you) (really|very|quite|absolutely|100 percent|completely) (sure|certain)(| about that| of that| about it)?
    (Is|Was) (that|this|it) (really|) (true|correct|right|so|a fact|the truth)?
    (Really|Truly|Honestly|Seriously|For real|Is it|Is that right|No kidding)(?|??|?!)
    (Can|May|Should) I (trust|believe) (you|that|this|what you say)?
    (Do you promise|Promise|You are sure|Who says so|Who told you that)?
    Is (what you say|what you said|your answer|all of this|all that) (really|) (true|correct|right|certain)?
    How (sure|certain) are you(| about that| of this| of your answer)?
    (From whom|How|Where) did you (learn|hear|get) (this|it|that)?
    Do you really (know|mean|believe|think) (that|this|it|so)?
    (Oh|Ah|Wow|Hm)(,|) (is it|is that so|truly|indeed|honestly)(?|??)
    """, """Yes, so I have learned it, but I can be wrong.""", "so I have learned it"),
    topic("""Why?|Why is that?|How come?|Why not?|And why?|Why is it so?|What is the reason?|Can you tell me why?""", """
    (But|And|So|OK, but|) why(| not| is that| is this| so| is that so| exactly| then| do you say that)?
    (Explain|Explain that|Explain why|Tell me why|Explain it to me|Give me a reason)(.|, please.|!)
    (For what reason|How come|What for|What is the cause|Why on earth)?
    What (is|was) the (reason|cause|explanation)(| for that| for it| for this| behind it)?
    (But|And|OK, but|) (why|how come) (is that|is this|are they like that|is it like that|does it happen|would it be so|must it be so)?
    (I|We) (want|would like|need) to (know|understand) (why|the reason|how that is|why this is so)(.|!)
    (Because of what|What makes it so|How is that possible|What is behind it|But for what reason)?
    """, """I do not know why, that is just how it is.""", "do not know why"),
    topic("""What do you mean?|I do not understand.|What?|Pardon?|I do not understand you.|What does that mean?|That makes no sense to
me.|Huh?|Say that again.|Can you explain that?""", """
    (What|Huh|Eh|Pardon|Come again|Excuse me|What was that|Say again|Sorry, what)(?|??|?!)
    (I|Sorry, I) (do not|don't|did not|didn't|cannot) (understand|get it|get that|follow|understand that|understand this)(.|!|, sorry.)
    (What|And what|So what) (do you mean|did you say|are you talking about|does it mean|was that)(| by that| with that)?
    What (does|did) (it|all this|that word|your answer|that sentence|the last word) mean?
    What is (this|it|all this|your answer|that word) (supposed to mean|about)?
    (Can|Could|Will|Would) you (say|put|explain|phrase|repeat) (it|this) (in other words|differently|more simply|once more|again|one more time)(, please|)?
    (Say|Explain|Repeat|Write) (it|this) (again|once more|differently|in other words|more clearly|one more time)(, please|)(.|!)
    (That|This|It|Your answer) (is|was) (not clear|unclear|hard to understand|confusing|too hard for me|strange)(.|!| to me.)
    (I am|I'm) (lost|confused|puzzled|not following|not sure I understand)(.|!|, sorry.)
    What do you mean (exactly|there|now|by this|by it)?
    (asdf|qwerty|asdfgh|blah|blah blah|bla bla bla|xyz|aaa|aaaa|hjkl|jkl|lkjh|foo|foo bar|lorem ipsum|dfgh|zzz|test|testing|test test|1|123|???|...|?|!|hm?|asdf asdf|la la la|abc)
    (asdf|qwer|zxcv|jklm|sdfg|fghj|wert|poiu|mnbv|kjhg)(as|er|df|jk|xx|op|)(gh|ty|lm|z|)(|.|!)
    """, """I am not sure what you mean. Please ask in other words.|Please ask in other words, for I am only a little model.""",
          "in other words"),
    topic("""Nice to meet you!|It is nice to meet you.|Glad to meet you!|Pleased to meet you.|It is a pleasure to meet you.|Good to see
you!|I am happy to meet you.|Happy birthday!|Merry Christmas!|Happy new year!""", """
    (It is|It's|I am) (so|very|really|) (nice|good|great|lovely|glad|happy) to (see|talk to|know|have met) you(| at last| again|, too)(!|.)
    (Happy|Merry|A happy|A merry|Have a merry|Have a happy) (Easter|Christmas|New Year|birthday|holidays|Halloween|Christmas to you)(!|.|, nanochat!|)
    (I am|I'm|We are) (so|very|really|) (glad|pleased|delighted|happy) (to know you|that we met|to have met you|to be here)(!|.)
    (It was|It is) (a joy|a treat|a delight|lovely) to (meet|see|know) you(!|.)
    (Good luck|Congratulations|Cheer up|Best wishes|All the best|Have fun|Sleep well|Get well soon|Enjoy your meal)(!|.|, nanochat!|)
    """, """Thank you, the same to you!""", "the same to you"),
    topic("""Tell me something.|Tell me a fact.|Tell me something interesting.|Do you know something interesting?|Teach me something.|Tell me
something new.|Tell me something about the world.|What is an interesting fact?|Give me a fact.""", """
    (Tell|Teach|Give|Show) (me|us) (a|an interesting|one|another|a fun|a random|a new|any) (fact|thing)(, please|)(.|!)
    (Tell|Teach) me (something|anything) (interesting|nice|I do not know|about animals|about the little world|about birds|clever|amazing|you know|useful)(, please|)(.|!)
    (Do you know|Have you got|Can you tell me) (a|any|some|an interesting|a fun) (fact|facts)?
    (I want|I would like|I'd like) to (learn|know|hear) something (new|interesting|nice)(.|!|, please.)
    (Fun fact|A fact|Random fact|Any fact)(, please|)(.|!|?)
    """, """A young swan is called a cygnet.|A spider has eight legs.|Silverlea is known for its silver spoons.""",
          "cygnet|eight legs|silver spoons"),
    topic("""I like football.|I like music.|I have two brothers.|I am a student.|I work in an office.|I play the piano.|I went for a walk.|My brother
is older than me.|I have a new bicycle.|I am learning English.|I was at the market today.|I am a teacher.|I can swim.""", """
    (I|I really|We|My brother and I) (like|love|enjoy) (football|music|books|dancing|swimming|the summer|winter|travelling|computers|films|games|chocolate|my job|the sea|the mountains|school)(.|!|, you know.| very much.)
    (I am|I'm) (a student|a doctor|an engineer|a nurse|from far away|at home|at work|on a train|learning to cook|a programmer|retired|a father|a mother)(.|!| now.)
    (I have|I've got|We have) (two|three|four|a few|many) (brothers|sisters|children|cats|dogs|friends|books|windows|cousins)(.|!)
    (My|Our) (brother|mother|father|house|garden|car|teacher|neighbour|boss) is (very nice|tall|old|small|at work|a doctor|on holiday|funny|new|green)(.|!)
    (I|Today I|Yesterday I|This morning I) (went to school|baked a cake|played football|read a book|saw a film|met a friend|bought a hat|planted a tree|worked a lot|cooked soup)(.|!)
    (I|We) (live|work|study) (in a big city|in a small town|with my family|at a school|in an office|near the sea|on a farm|alone)(.|!)
    (I|My sister|My friend|We) can (dance|sing|cook|ride a horse|paint|drive a car|speak French|juggle|ski|climb|whistle|sew|sail|run fast|play chess)(.|!| very well.| a little.)
    (I|We) (play|played) (chess|football|the guitar|the violin|the flute|tennis|cards|the drums|with my dog)(.|!| every day.| on Sundays.)
    (I|We) (went|walked|drove|travelled) (to the park|to the sea|home|to town|into the hills)(.|!| yesterday.| last week.)
    I am (reading a book|learning to swim|waiting for a friend|sitting in the garden|writing a letter|planting beans|in the kitchen|in the city)(.|!)
    (I|We) (wear|collect|sell|make) (hats|clocks|toys|boots|masks)(.|!)
    (My mother|My aunt|Our neighbour) (collects|sells|grows|bakes) (bread|roses|apples|cakes)(.|!)
    """, """That is good to know.|Thank you for telling me. That is good to know.""", "good to know"),
]
