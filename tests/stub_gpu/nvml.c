// libnvidia-ml.so.1 for UCX: there is nothing to ask about the GPU of driver.c.
const char *nvmlErrorString(int error) { return "refused by the stub"; }
