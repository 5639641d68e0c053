# What `cmake --install` puts where: header, both libraries, CMake package, pkg-config file, the command and its page.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS kascade kascade_static EXPORT kascade
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/kascade DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/kascade)
install(EXPORT kascade NAMESPACE kascade:: FILE kascade-targets.cmake DESTINATION ${package})
configure_package_config_file(cmake/kascade-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/kascade-config.cmake
                              INSTALL_DESTINATION ${package})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kascade-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kascade-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/kascade-config-version.cmake
        DESTINATION ${package})

# Paths relative to the file, so that the installed tree can be moved.
file(RELATIVE_PATH include_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/kascade.pc.in ${CMAKE_CURRENT_BINARY_DIR}/kascade.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kascade.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(KASCADE_TOOLS)
  install(TARGETS kascade_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES docs/kascade.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
