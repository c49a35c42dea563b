"""`trimtab feedback judge`: a model as the rater of answers: of pairs, or by what people wrote about them (RLAIF).

A package of the command line and of no service: it is an operator's act, its verdicts go through the public door like
any app's feedback, and only the command line depends on httpx. In reading order: `questions` (what a judge is shown and
how its reply is read; pure), `verdicts` (two replies to one verdict, and the books; pure), `judges` (who is asked: an
OpenAI-compatible endpoint, or the reward service), what there is to judge: `pairs` (answers that the platform knows),
`texts` (pairs of plain text from elsewhere), `comments` (critiques of people), and `judging` (the command).
"""
