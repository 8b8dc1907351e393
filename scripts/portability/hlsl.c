// Compiles HLSL with DXC (dxcompiler.dll) and FXC (d3dcompiler_47.dll) as wgpu-hal 30 does. For Windows, or for wine.
//
//     hlsl DXCOMPILER.DLL D3DCOMPILER_47.DLL < REQUESTS
//
// A request is a line `COMPILER TAB TARGET TAB FILE`, COMPILER being dxc or fxc, TARGET a profile such as cs_6_0. Each is answered by
// a line `STATUS TAB MILLISECONDS TAB MESSAGE`: `ok` or an HRESULT, processor time in steps of about 10 ms, and what the
// compiler says, its lines joined by ` | `. Of a success it says `FMAS ARRAYS`: multiply-adds in the code, and arrays that an
// invocation keeps in memory instead of registers.

#define COBJMACROS
#include <windows.h>
#include <d3dcommon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Of dxcapi.h, which MinGW lacks: the tables of methods up to those that are called here.
typedef struct { const void *text; SIZE_T size; UINT encoding; } DxcBuffer;
typedef struct DxcResult DxcResult;
struct DxcResult {
    struct {
        void *query_interface, *add_ref;
        ULONG (WINAPI *release)(DxcResult *);
        HRESULT (WINAPI *get_status)(DxcResult *, HRESULT *);
        void *get_result, *get_error_buffer, *has_output;
        HRESULT (WINAPI *get_output)(DxcResult *, UINT32, REFIID, void **, void **);
    } *methods;
};
typedef struct DxcCompiler DxcCompiler;
struct DxcCompiler {
    struct {
        void *query_interface, *add_ref, *release;
        HRESULT (WINAPI *compile)(DxcCompiler *, const DxcBuffer *, LPCWSTR *, UINT32, void *, REFIID, void **);
        HRESULT (WINAPI *disassemble)(DxcCompiler *, const DxcBuffer *, REFIID, void **);
    } *methods;
};
static const GUID CLSID_COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID IID_COMPILER3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID IID_RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
static const GUID IID_BLOB = {0x8ba5fb08, 0x5195, 0x40e2, {0xac, 0x58, 0x0d, 0x98, 0x9c, 0x3a, 0x01, 0x02}};
enum { OBJECT = 1, ERRORS = 2, DISASSEMBLY = 5, UTF8 = 65001, ENABLE_STRICTNESS = 1 << 11 };

typedef HRESULT (WINAPI *DxcCreateInstance)(REFIID, REFIID, void **);
typedef HRESULT (WINAPI *D3DCompile)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *, UINT,
    UINT, ID3DBlob **, ID3DBlob **);
typedef HRESULT (WINAPI *D3DDisassemble)(const void *, SIZE_T, UINT, const char *, ID3DBlob **);

static double processor_ms(void) {
    FILETIME begun, ended, kernel, user;
    GetProcessTimes(GetCurrentProcess(), &begun, &ended, &kernel, &user);
    double high = (double)kernel.dwHighDateTime + user.dwHighDateTime;
    return (high * 4294967296.0 + kernel.dwLowDateTime + user.dwLowDateTime) / 1e4;
}

static char *read_whole(const char *name, SIZE_T *size) {
    FILE *file = fopen(name, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    long end = ftell(file);
    rewind(file);
    char *text = end < 0 ? NULL : malloc((size_t)end + 1);
    if (text) *size = fread(text, 1, (size_t)end, file);
    fclose(file);
    return text;
}

static ID3DBlob *output(DxcResult *result, UINT32 kind) {
    ID3DBlob *blob = NULL;
    void *name = NULL;
    result->methods->get_output(result, kind, &IID_BLOB, (void **)&blob, &name);
    return blob;
}

// `assembly` becomes what the compiler made, as text.
static HRESULT with_dxc(DxcCompiler *dxc, const char *target, const char *text, SIZE_T size, ID3DBlob **errors, ID3DBlob **assembly) {
    wchar_t wide[16] = {0};
    mbstowcs(wide, target, 15);
    LPCWSTR arguments[] = {L"shader", L"-E", L"main", L"-T", wide, L"-HV", L"2018", L"-Ges", L"-no-warnings"};
    DxcBuffer source = {text, size, UTF8};
    DxcResult *result = NULL;
    HRESULT status = dxc->methods->compile(dxc, &source, arguments, sizeof arguments / sizeof *arguments, NULL, &IID_RESULT, (void **)&result);
    if (FAILED(status)) return status;
    result->methods->get_status(result, &status);
    *errors = output(result, ERRORS);
    ID3DBlob *code = SUCCEEDED(status) ? output(result, OBJECT) : NULL;
    result->methods->release(result);
    if (!code) return status;
    DxcBuffer object = {ID3D10Blob_GetBufferPointer(code), ID3D10Blob_GetBufferSize(code), 0};
    if (SUCCEEDED(dxc->methods->disassemble(dxc, &object, &IID_RESULT, (void **)&result))) {
        *assembly = output(result, DISASSEMBLY);
        result->methods->release(result);
    }
    ID3D10Blob_Release(code);
    return status;
}

static HRESULT with_fxc(D3DCompile fxc, D3DDisassemble disassemble, const char *target, const char *text, SIZE_T size, ID3DBlob **errors,
    ID3DBlob **assembly) {
    ID3DBlob *code = NULL;
    HRESULT status = fxc(text, size, NULL, NULL, NULL, "main", target, ENABLE_STRICTNESS, 0, &code, errors);
    if (!code) return status;
    disassemble(ID3D10Blob_GetBufferPointer(code), ID3D10Blob_GetBufferSize(code), 0, NULL, assembly);
    ID3D10Blob_Release(code);
    return status;
}

static int times(const char *text, SIZE_T size, const char *word) {
    int count = 0;
    SIZE_T length = strlen(word);
    for (SIZE_T i = 0; i + length <= size; i++) count += !memcmp(text + i, word, length);
    return count;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: hlsl DXCOMPILER.DLL D3DCOMPILER_47.DLL < REQUESTS\n"), 2;
    HMODULE dxc_library = LoadLibraryA(argv[1]), fxc_library = LoadLibraryA(argv[2]);
    if (!dxc_library || !fxc_library) return fprintf(stderr, "cannot load %s\n", argv[dxc_library ? 2 : 1]), 2;
    DxcCreateInstance create = (DxcCreateInstance)(void *)GetProcAddress(dxc_library, "DxcCreateInstance");
    D3DCompile fxc = (D3DCompile)(void *)GetProcAddress(fxc_library, "D3DCompile");
    D3DDisassemble disassemble = (D3DDisassemble)(void *)GetProcAddress(fxc_library, "D3DDisassemble");
    DxcCompiler *dxc = NULL;
    if (!fxc || !disassemble || !create || FAILED(create(&CLSID_COMPILER, &IID_COMPILER3, (void **)&dxc)))
        return fprintf(stderr, "the libraries lack DxcCreateInstance, D3DCompile or D3DDisassemble\n"), 2;
    static char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        char *compiler = strtok(line, "\t\r\n"), *target = strtok(NULL, "\t\r\n"), *file = strtok(NULL, "\t\r\n");
        if (!file) return fprintf(stderr, "not a request: %s\n", line), 2;
        SIZE_T size = 0;
        char *text = read_whole(file, &size);
        ID3DBlob *errors = NULL, *assembly = NULL;
        int is_fxc = !strcmp(compiler, "fxc");
        double start = processor_ms();
        HRESULT status = E_FAIL;
        if (text && is_fxc) status = with_fxc(fxc, disassemble, target, text, size, &errors, &assembly);
        if (text && !is_fxc) status = with_dxc(dxc, target, text, size, &errors, &assembly);
        double ms = processor_ms() - start;
        if (SUCCEEDED(status)) printf("ok\t%.0f\t", ms); else printf("%08lx\t%.0f\t", (unsigned long)status, ms);
        if (assembly) {
            const char *code = ID3D10Blob_GetBufferPointer(assembly);
            SIZE_T length = ID3D10Blob_GetBufferSize(assembly);
            // DXC writes an operation for each number (FMad is 46), FXC one for up to four.
            printf("%d %d", times(code, length, is_fxc ? " mad " : "@dx.op.tertiary.f32(i32 46,"), times(code, length, is_fxc ? "dcl_indexableTemp" : " = alloca "));
            ID3D10Blob_Release(assembly);
        }
        if (!text) printf("cannot read %s", file);
        const char *said = errors ? ID3D10Blob_GetBufferPointer(errors) : "";
        SIZE_T length = errors && FAILED(status) ? ID3D10Blob_GetBufferSize(errors) : 0;
        for (SIZE_T i = 0; i < length && i < 4000 && said[i]; i++) {
            if (said[i] == '\n') fputs(" | ", stdout);
            else if (said[i] != '\r') putchar(said[i] == '\t' ? ' ' : said[i]);
        }
        putchar('\n');
        fflush(stdout);
        if (errors) ID3D10Blob_Release(errors);
        free(text);
    }
    return 0;
}
