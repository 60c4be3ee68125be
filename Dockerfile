# fairseq-taskmoe for CPUs, with all its commands:
#   docker build -t fairseq-taskmoe .
#   docker run -p 8000:8000 -v "$PWD/models:/models" fairseq-taskmoe taskmoe serve /models --host 0.0.0.0
FROM python:3.12-slim

WORKDIR /opt/fairseq-taskmoe
COPY . .
# in the order of `make setup`, and for its reasons
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch
RUN pip install --no-cache-dir -c constraints.txt --no-deps ve-fairseq
RUN pip install --no-cache-dir -c constraints.txt ".[data,plot,serve]"

WORKDIR /work
EXPOSE 8000
CMD ["taskmoe", "--help"]
