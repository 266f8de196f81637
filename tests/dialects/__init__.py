"""Tests of the dialects: clients of other servers, on real nodes."""
