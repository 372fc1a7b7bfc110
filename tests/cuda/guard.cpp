// PyTorch's build for CPUs has no guard for CUDA devices, without which it refuses fake tensors there.
#include <c10/core/impl/DeviceGuardImplInterface.h>

extern "C" void set_guard() {
  using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
  static Guard guard;
  constexpr auto place = static_cast<size_t>(c10::DeviceType::CUDA);
  c10::impl::device_guard_impl_registry[place].store(&guard);
}
