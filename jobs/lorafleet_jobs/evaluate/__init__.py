"""How good adapters are: pictures are sampled over the base, beside controls, and scored.

    arms       what is sampled: the adapter, and the controls beside it
    sampler    an arm's pictures, each a function of its prompt and seed
    pictures   what scores are made from: a subject's real pictures, and what an arm made
    measures   scores as pure functions of embeddings, similarities and pixels
    bootstrap  intervals over subjects
    suite      what a set of scores is; `toy` has the toy world's, `real` those for photographs
    looks      rendered identities that resemble a subject, and held-out views of made-up subjects
    run        every arm of every adapter, and what it comes to
    find, publish, show    what the command does around that

Knows adapters and bases in memory. Nothing but `find` and `publish` knows submissions and MLflow; nothing knows Ray.
"""
