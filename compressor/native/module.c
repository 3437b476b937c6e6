/* The module `compressor.native.loops`: what Python calls, and the buffers that it hands over. */

#include "loops.h"

void release(Buffers *buffers) {
    while (buffers->count)
        PyBuffer_Release(&buffers->view[--buffers->count]);
}

static int number_of(PyObject *given, uint64_t *number) {
    PyObject *whole = PyNumber_Index(given);
    if (!whole)
        return -1;
    *number = PyLong_AsUnsignedLongLong(whole);
    Py_DECREF(whole);
    return PyErr_Occurred() ? -1 : 0;
}

int acquire(Buffers *buffers, PyObject *const *given, Py_ssize_t all, int count, int written, uint64_t *numbers, int numbered) {
    buffers->count = 0;
    if (all != count + numbered) {
        PyErr_Format(PyExc_TypeError, "%d arguments, got %zd", count + numbered, all);
        return -1;
    }
    for (int place = 0; place < count; place++) {
        Py_buffer *view = &buffers->view[place];
        if (PyObject_GetBuffer(given[place], view, place >= written ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) {
            release(buffers);
            return -1;
        }
        buffers->count++;
        if (view->itemsize != 1 && view->itemsize != 2 && view->itemsize != 4 && view->itemsize != 8) {
            PyErr_Format(PyExc_ValueError, "elements of 1, 2, 4 or 8 bytes, got %zd", view->itemsize);
            release(buffers);
            return -1;
        }
    }
    for (int place = 0; place < numbered; place++)
        if (number_of(given[count + place], &numbers[place]) < 0) {
            release(buffers);
            return -1;
        }
    return 0;
}

int refused(Buffers *buffers, int holds, const char *condition) {
    if (holds)
        return 0;
    release(buffers);
    PyErr_SetString(PyExc_ValueError, condition);
    return 1;
}

#define LISTED(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    LISTED(pack_into),
    LISTED(unpack_into),
    LISTED(look_up_into),
    LISTED(places_into),
    LISTED(known),
    LISTED(select_into),
    LISTED(scatter_into),
    LISTED(gaps_into),
    LISTED(gaps_to_mask),
    LISTED(near_zero),
    LISTED(above_into),
    LISTED(compared),
    LISTED(extremes_into),
    LISTED(fits_into),
    LISTED(search_into),
    LISTED(codes_into),
    LISTED(dequantize_into),
    LISTED(narrow_into),
    LISTED(widen_into),
    LISTED(round_into),
    LISTED(turn_into),
    LISTED(distinct_into),
    LISTED(row_places_into),
    {NULL, NULL, 0, NULL},
};

#ifndef SOURCES
#define SOURCES 0
#endif

static int begin(PyObject *module) {
    make_places();
    PyObject *sources = PyLong_FromUnsignedLong(SOURCES);
    int failed = !sources || PyModule_AddObjectRef(module, "SOURCES", sources) < 0;
    Py_XDECREF(sources);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)begin},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "loops", "What `native.loop` finds here it takes for the definition of the same name.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_loops(void) {
    return PyModuleDef_Init(&module);
}
