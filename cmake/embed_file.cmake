# Writes the bytes of INPUT as the C array SYMBOL to OUTPUT. Run by kascade_embed.
file(READ ${INPUT} bytes HEX)
string(LENGTH "${bytes}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include <stddef.h>
extern const unsigned char ${SYMBOL}[];
extern const size_t ${SYMBOL}_size;
_Alignas(16) const unsigned char ${SYMBOL}[] = {${bytes}0};
const size_t ${SYMBOL}_size = ${size};
")
