"""Contact sheets, XY sheets and blind votes: what a reviewer looks at, and what comes of looking.

candidates  words of a user -> adapters, with their cards, points and photos
cells       one picture of a sheet: what is asked of the engine, and what it may be voted against
contact     a contact sheet: rows of adapters; a photo, the base, the words alone, the adapter at some scales
axes        an XY sheet: any two of scale, adapter, sweep point, prompt, sampler, steps, seed
making      all pictures of a sheet, by one step engine in this process
grid_png    the sheet as one PNG
page        the sheet as one web page that needs nothing else (page.html.jinja, page.css, page.js)
votes       the file of votes that the page exports, and votes merged
ranking     votes -> strengths with intervals
verdict     a ranking in words, and the command that acts on it
"""
