"""Answers from which extractions of a final number may differ, and reference numbers."""

from itertools import product

GOLDS = ("18", "-18", "1800", "1,800", "1,234,567", "0", "5", "8", "-7", "0.5", "3.14", "18.00", "12", "2", "1")

# Text after "The answer is", "The final answer is" or "####", also used alone.
ENDINGS = (
    "18", "18.", "18 .", "18,", "18..", "18...", "18!", "18?", "18\n", "18.\n", "\n18", " 18", "\t18.", "18 18",
    "18, 5", "1,800", "1,800.", "1.800", "1 800", "1,8,0,0", "1,234,567.", "1_800", "1'800", "1e3", "1.8e3", "$18",
    "$18.", "$18.00", "$18.00.", "$1,800.", "$ 18", "18$", "18 $", "-$18", "$-18.", "£18", "€18.", "18€", "USD 18",
    "-18", "-18.", "- 18", "\u221218.", "\u221218", "\u201318.", "--18", "+18", "(-18)", "-7.", "minus 7", "0.5",
    "0.5.", ".5", ".5.", "5.0", "18.0.", "18.00", "3.14.", "0", "0.", "-0", "00018.", "18.5.6", "1..8", "18%", "18 %.",
    "18 percent.", "50%", "1/2", "1/2.", "-1/2", "3 1/2", "\u00bd", "18/1.", "10:18", "18:00", "18 dollars.",
    "18 dollars", "18kg", "18 kg.", "18cm.", "18 eggs per day.", "18th.", "x18.", "18x", "x = 18.", "=18", "**18**",
    "**18.**", "*18*.", "_18_", "`18`", "\"18\".", "(18)", "[18].", "{18}", "<18>", "<<9*2=18>>18", "\\boxed{18}",
    "\\boxed{18}.", "$\\boxed{18}$", "$\\boxed{18}$.", "\\boxed{1,800}", "\\(18\\)", "$18$", "$$18$$", "\\$18",
    "\\frac{1}{2}", "\\text{18}", "\\boxed{\\frac{36}{2}}", "18\\%", "1{,}800", "1\\,800.", "eighteen", "eighteen.",
    "none", "[invalid]", "unknown.", "N/A", "", ".", ",", "-", "$", "..", ",,", "-.", "$.", "$,", "18 or 5.",
    "5 or 18", "between 5 and 18.", "18 (not 5).", "5, so 18.", "18 = 9 * 2", "9 * 2 = 18.", "18-5", "18 - 5",
    "9" * 400, "1" + ",000" * 60 + ".", "-" + "8" * 50, "0" * 300 + "18.", "18." + " word" * 500, "18" + "\n" * 300,
    "\u0661\u0668", "\uff11\uff18.", "\u2460", "18\u00a0", "\u200b18", "18\u200b.", "1\u00a0800", "18\0", "\0" + "18.",
    "18\r\n", "18\u2028", "18\r", "\ufeff18.", "\U0001f4b018.", "18\u3002", "\uff0d18",
)

# Whole answers, with the phrase late, twice, in another form, or not at all.
WHOLE = (
    "She sells 9 eggs. 9 * 2 = 18 dollars.\n#### 18", "#### 18\n#### 5", "#### 5\n#### 18", "####18", "####  18",
    "####\n18", "#### \n18", "### 18", "##### 18", "## # 18", "#### $18", "#### -18", "#### - 18", "#### 18 dollars",
    "#### 1,800\n\nQuestion: How many?\nAnswer: 5\n#### 5", "#### The answer is 18.", "The answer is #### 18",
    "#### #### 18", "#### .\n#### 18", "####\u00a018", "#### \u221218", "\uff03\uff03\uff03\uff03 18",
    "a #### b #### 18 c", "The answer is 5. The answer is 18.", "The answer is 18. The answer is 5.",
    "The answer is18.", "the answer is 18.", "The Answer Is 18.", "THE ANSWER IS 18.", "The answer is: 18.",
    "The answer is  18.", "The answer is\n18.", "The answer is not 18.", "The answer is 18\nThe answer is 5",
    "So the answer is 18.", "The answer is, 18.", "The answer is.18.", "The answer is -\n18",
    "The answer is The answer is 18.", "Answer: 18", "ANSWER: 18", "18",
    "The final answer is 5\nThe final answer is 18", "The final answer is 18\nThe final answer is 5",
    "The final answer is The answer is 18.", "The final answer is: 18", "The final Answer is 18",
    "The final answer is\n18", "The final answer is $\\boxed{18}$. I hope it is correct.",
    "The final answer is 18 and The answer is 5.", "Step 1: 9 eggs. Step 2: 18 dollars. Done in 2 steps.",
    "1. Add. 2. Multiply. 3. Get 18", "No number at all.", "18 is what she makes. I checked it 2 times.",
    "I am 100% sure that it is 18.", "See page 18 (2 of 5).", "", "\n", " ", "\n\n\n18\n\n\n", "1\n8", "1 8", "...",
    "18 \u0665", "18\uff15", "$$$", "-5 - -18", "18 --5", "$1,800.00.", "a1b8c18d", "....18....",
)

ANSWERS = tuple(dict.fromkeys((
    *map("".join, product(("The answer is ", "#### ", "The final answer is ", ""), ENDINGS)),
    *WHOLE,
)))
