"""The one renderer of prompts: training, evaluation and serving all speak to a base through it.

`Renderer` turns text, fill-in-the-middle parts and chats into token ids; `fit_fim` cuts a
file around the cursor to what fits a window; `transcode` reads foreign FIM markup.
"""

from codetune.models.prompts.answers import UntrackableError
from codetune.models.prompts.chat import Message
from codetune.models.prompts.families import FimTokens
from codetune.models.prompts.fit import Fitted, fit_context, fit_fim
from codetune.models.prompts.foreign import ContextFile, ForeignFim, transcode
from codetune.models.prompts.gap_end import GapEdges, GapEnd, until_gap_end
from codetune.models.prompts.healing import Beginning, Pending
from codetune.models.prompts.renderer import Opening, Renderer
from codetune.models.prompts.templates import TemplateName
from codetune.models.prompts.tokenizer_files import Order
from codetune.models.prompts.words import Ids, Places

__all__ = [
    "Beginning",
    "ContextFile",
    "FimTokens",
    "Fitted",
    "ForeignFim",
    "GapEdges",
    "GapEnd",
    "Ids",
    "Message",
    "Opening",
    "Order",
    "Pending",
    "Places",
    "Renderer",
    "TemplateName",
    "UntrackableError",
    "fit_context",
    "fit_fim",
    "transcode",
    "until_gap_end",
]
