"""An OpenAI-compatible text server: `python -m serving.text CHECKPOINT`.

errors      the API's own error shape
fields      values of a JSON object, each checked
calls       what a request body asks for: prompts, settings and the form of the answer
chat        messages as one prompt
tokens      what a token is called in an answer
answers     completions as the API writes them
worker      the thread that runs the model
server      routes, limits, streaming, metrics
"""
