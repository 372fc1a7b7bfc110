// A driver for one GPU that is host memory: copies are memcpy, events are over at once.
//
// UCX loads this as libcuda.so.1 and asks it what an address is. Memory counts as the GPU's once
// stub_declare has named it. The first call of each function appends its name to the file
// STUB_DRIVER_LOG. What UCX does not need for copies (IPC handles, virtual memory management, memory
// pools) is not supported.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, NOT_SUPPORTED = 801 };
enum { CONTEXT = 1, MEMORY_TYPE = 2, BUFFER_ID = 7, IS_MANAGED = 8, DEVICE_ORDINAL = 9 };
enum { HOST_MEMORY = 1, DEVICE_MEMORY = 2, MAX_REGIONS = 16 };

static struct { uintptr_t base; size_t size; } regions[MAX_REGIONS];
static int num_regions;
static void *const a_handle = &num_regions;

static void log_call(const char *name) {
    const char *path = getenv("STUB_DRIVER_LOG");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (file >= 0) {
        dprintf(file, "%s\n", name);
        close(file);
    }
}

#define CALL(name, ...) int name(__VA_ARGS__)
#define RETURN(result)                          \
    do {                                        \
        static int is_logged;                   \
        if (!is_logged++) log_call(__func__);   \
        return result;                          \
    } while (0)
#define UNSUPPORTED(name) int name(void) { RETURN(NOT_SUPPORTED); }
#define NOTHING(name) int name(void) { RETURN(SUCCESS); }

void stub_declare(uintptr_t base, size_t size) {
    regions[num_regions].base = base;
    regions[num_regions++].size = size;
}

static int region_of(uintptr_t address) {
    for (int i = 0; i < num_regions; i++)
        if (address - regions[i].base < regions[i].size) return i;
    return -1;
}

NOTHING(cuInit)
CALL(cuDeviceGetCount, int *count) { *count = 1; RETURN(SUCCESS); }
CALL(cuDeviceGet, int *device, int ordinal) { *device = ordinal; RETURN(SUCCESS); }
CALL(cuDeviceGetAttribute, int *value, int attribute, int device) { *value = 0; RETURN(SUCCESS); }
CALL(cuDeviceGetName, char *name, int size) { snprintf(name, size, "stub"); RETURN(SUCCESS); }
CALL(cuDeviceGetUuid, char *uuid) { memset(uuid, 7, 16); RETURN(SUCCESS); }
CALL(cuDeviceGetUuid_v2, char *uuid) { memset(uuid, 7, 16); RETURN(SUCCESS); }
CALL(cuDeviceTotalMem_v2, size_t *bytes) { *bytes = 1ull << 37; RETURN(SUCCESS); }
CALL(cuDevicePrimaryCtxGetState, int device, unsigned *flags, int *active) {
    *flags = 0, *active = 1;
    RETURN(SUCCESS);
}
CALL(cuDevicePrimaryCtxRetain, void **context) { *context = a_handle; RETURN(SUCCESS); }
NOTHING(cuDevicePrimaryCtxRelease_v2)

CALL(cuCtxGetCurrent, void **context) { *context = a_handle; RETURN(SUCCESS); }
CALL(cuCtxGetDevice, int *device) { *device = 0; RETURN(SUCCESS); }
CALL(cuCtxGetFlags, unsigned *flags) { *flags = 0; RETURN(SUCCESS); }
CALL(cuCtxGetId, void *context, unsigned long long *id) { *id = 1; RETURN(SUCCESS); }
CALL(cuCtxPopCurrent_v2, void **context) { if (context) *context = a_handle; RETURN(SUCCESS); }
NOTHING(cuCtxPushCurrent_v2)

static int attribute_of(void *value, int attribute, uintptr_t address) {
    int region = region_of(address);
    if (region < 0) return INVALID_VALUE;
    switch (attribute) {
    case MEMORY_TYPE: *(unsigned *)value = DEVICE_MEMORY; return SUCCESS;
    case IS_MANAGED: *(unsigned *)value = 0; return SUCCESS;
    case DEVICE_ORDINAL: *(int *)value = 0; return SUCCESS;
    case BUFFER_ID: *(unsigned long long *)value = region + 1; return SUCCESS;
    case CONTEXT: *(void **)value = a_handle; return SUCCESS;
    default: return INVALID_VALUE;
    }
}
CALL(cuPointerGetAttribute, void *value, int attribute, uintptr_t address) {
    RETURN(attribute_of(value, attribute, address));
}
CALL(cuPointerGetAttributes, unsigned count, int *attributes, void **values, uintptr_t address) {
    // Of an address that it does not know, CUDA sets every attribute to nothing.
    for (unsigned i = 0; i < count; i++)
        if (attribute_of(values[i], attributes[i], address) != SUCCESS)
            memset(values[i], 0, sizeof(unsigned));
    RETURN(SUCCESS);
}
NOTHING(cuPointerSetAttribute)
CALL(cuMemGetAddressRange_v2, uintptr_t *base, size_t *size, uintptr_t address) {
    int region = region_of(address);
    if (region < 0) return INVALID_VALUE;
    if (base) *base = regions[region].base;
    if (size) *size = regions[region].size;
    RETURN(SUCCESS);
}

CALL(cuMemcpyAsync, void *to, const void *from, size_t size) { memcpy(to, from, size); RETURN(SUCCESS); }
CALL(cuMemcpyDtoDAsync_v2, void *to, const void *from, size_t size) { memcpy(to, from, size); RETURN(SUCCESS); }
CALL(cuMemcpyHtoD_v2, void *to, const void *from, size_t size) { memcpy(to, from, size); RETURN(SUCCESS); }
CALL(cuStreamCreate, void **stream) { *stream = a_handle; RETURN(SUCCESS); }
NOTHING(cuStreamDestroy_v2)
NOTHING(cuStreamSynchronize)
CALL(cuStreamAddCallback, void *stream, void (*callback)(void *, int, void *), void *data) {
    callback(stream, SUCCESS, data);
    RETURN(SUCCESS);
}
CALL(cuEventCreate, void **event) { *event = a_handle; RETURN(SUCCESS); }
NOTHING(cuEventDestroy_v2)
NOTHING(cuEventRecord)
NOTHING(cuEventQuery)
NOTHING(cuMemHostRegister_v2)
NOTHING(cuMemHostUnregister)
CALL(cuGetErrorString, int error, const char **text) { *text = "refused by the stub"; RETURN(SUCCESS); }
CALL(cuGetProcAddress_v2, const char *name, void **function, int version, uint64_t flags, int *found) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (found) *found = *function ? 0 : 1;
    RETURN(*function ? SUCCESS : NOT_FOUND);
}

UNSUPPORTED(cuIpcCloseMemHandle)
UNSUPPORTED(cuIpcGetMemHandle)
UNSUPPORTED(cuIpcOpenMemHandle_v2)
UNSUPPORTED(cuMemAddressFree)
UNSUPPORTED(cuMemAddressReserve)
UNSUPPORTED(cuMemAllocManaged)
UNSUPPORTED(cuMemAlloc_v2)
UNSUPPORTED(cuMemCreate)
UNSUPPORTED(cuMemExportToShareableHandle)
UNSUPPORTED(cuMemFree_v2)
UNSUPPORTED(cuMemGetAllocationGranularity)
UNSUPPORTED(cuMemGetAllocationPropertiesFromHandle)
UNSUPPORTED(cuMemImportFromShareableHandle)
UNSUPPORTED(cuMemMap)
UNSUPPORTED(cuMemPoolDestroy)
UNSUPPORTED(cuMemPoolExportPointer)
UNSUPPORTED(cuMemPoolExportToShareableHandle)
UNSUPPORTED(cuMemPoolImportFromShareableHandle)
UNSUPPORTED(cuMemPoolImportPointer)
UNSUPPORTED(cuMemPoolSetAccess)
UNSUPPORTED(cuMemRangeGetAttribute)
UNSUPPORTED(cuMemRelease)
UNSUPPORTED(cuMemRetainAllocationHandle)
UNSUPPORTED(cuMemSetAccess)
UNSUPPORTED(cuMemUnmap)
UNSUPPORTED(cuMemcpyBatchAsync_v2)
