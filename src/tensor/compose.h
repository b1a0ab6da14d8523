/*
 * `project` and `project_gated` made of the operations that they stand for: all there is to them on a device
 * that gains nothing from more, and what the others do where a shape does not suit their kernels. They go
 * through the device's table, so that a profile finds each part under its own name.
 */
#ifndef SPI_TENSOR_COMPOSE_H
#define SPI_TENSOR_COMPOSE_H

#include "tensor/backend.h"

/* Where project_gated's products of f columns lie; up.data NULL: there is none. */
static inline void spi_compose_gate_up(const spi_projection *list, int count, int64_t f, spi_mat *gate,
                                       spi_mat *up) {
    *gate = list[0].y;
    *up = count > 1 ? list[1].y : (spi_mat){NULL, SP_F32, 0, 0, 0};
    if (count == 1 && gate->cols > f) {
        *up = *gate;
        up->data = (char *)gate->data + (size_t)f * (gate->dtype == SP_F32 ? 4 : 2);
        gate->cols = up->cols = f;
    }
}

static inline void spi_compose_project(spi_device *dev, const spi_projection *list, int count, spi_mat x,
                                       const spi_norm *norm, spi_mat room) {
    if (norm) dev->op->norm(dev, room, x, norm);
    for (int i = 0; i < count; i++)
        dev->op->linear(dev, list[i].y, norm ? room : x, list[i].w, list[i].bias, NULL);
}

/* y = act(gate) * up from products that are there. */
static inline void spi_compose_gated(spi_device *dev, spi_mat y, const spi_projection *list, int count,
                                     spi_activation act) {
    spi_mat gate, up;
    spi_compose_gate_up(list, count, y.cols, &gate, &up);
    dev->op->gated(dev, y, gate, up, act);
}

static inline void spi_compose_project_gated(spi_device *dev, spi_mat y, const spi_projection *list, int count,
                                             spi_mat x, const spi_norm *norm, spi_mat room, spi_activation act,
                                             bool keep) {
    (void)keep; /* they are there anyway */
    spi_compose_project(dev, list, count, x, norm, room);
    spi_compose_gated(dev, y, list, count, act);
}

#endif
