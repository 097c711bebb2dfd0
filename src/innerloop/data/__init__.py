"""From what people have to episodes: reading, understanding, dividing, drawing.

`il.tasks` (`..tasks`) and `il.datasets` (`..datasets`) are the doors; this is the way behind them, in order:

| step | files | what happens |
|---|---|---|
| recognise | `layouts` | a path, frame, array, data set, loader or function is told apart, and sound sizes are chosen |
| read | `delimited`, `frames` · `arrays` · `images` · `single`, `functions` | rows, with the line or file of each |
| look at cells | `cells`, `dates`, `spelling` | gaps, ids, dates, numbers as people write them |
| understand | `columns`, `schema` | what columns mean, fitted on meta-train and stored with the model |
| group and divide | `tables`, `nway` · `splits`, `arrange` | tasks and classes; meta-train, -validation and -test |
| choose support | `support` | how many rows and which ones; seeds become streams of random numbers |
| draw | `sources`, `rows`, `draws` | stacked episodes, fresh ones for training, fixed ones for evaluation |
| recombine | `compose` | training tasks put together in other ways; changes to values are in `..augment` |
| look before training | `check`, `leaks` | all of this with errors collected, and signs of leaks |
| named sets | `alphabets`, `samplesets`, `imagesets` | drawn, computed, or read from folders of other libraries |

Imports follow this order: `cells` knows nothing of the others, `layouts` and `check` know nearly all of them.
"""
