"""Pages that show every feature of a trained model, and open in a browser without a server.

``page`` writes what is fixed (``index.html.j2``, ``app.js``, ``style.css``) and data; the browser
makes the views from them.
"""
